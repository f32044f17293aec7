"""What a record says about a picture or clip -> a file that decoders open."""
