"""What a data set holds, checked and shown before anything is trained."""
