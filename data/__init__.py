"""Files of conversations, clips and pictures -> batches; never imports `train`."""
