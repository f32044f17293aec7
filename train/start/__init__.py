"""The beginnings of a run: an adapter that was trained before, and the model of which a part is trained."""
