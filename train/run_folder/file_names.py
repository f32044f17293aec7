"""The names of the files in a run's folder, for those who only read them: importing their writers takes seconds."""

RECIPE = "recipe.yaml"
METRICS_FILE = "metrics.jsonl"
PROVENANCE = "provenance.json"
BAD_MEDIA_FILE = "bad_media.jsonl"
LEFT_OUT_FILE = "left_out.json"
