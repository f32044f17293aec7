"""The preprocessing of a trained model: kept beside it, read, and compared with what is about to be used."""
