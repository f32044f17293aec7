"""The model: loaded, adapted, and attending to packed rows."""
