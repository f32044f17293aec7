"""Several adapters of one base, each with a weight -> one model: agreed, combined, checked and told of."""
