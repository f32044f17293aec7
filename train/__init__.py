"""Model, adapter, loss, trainer."""

import logging

# Where a CPU has AVX512-BF16, importing bitsandbytes warns that a package is missing that nothing here needs; with it,
# it would fetch code from the hub. transformers and PEFT import bitsandbytes whether a recipe quantises or not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
