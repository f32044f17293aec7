"""The pictures and clips that records name -> files that decoders open."""
