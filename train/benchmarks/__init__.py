"""Published benchmarks, in the layouts of their authors and with the prompts of their evaluations -> conversations."""
