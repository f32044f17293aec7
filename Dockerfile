# reeltune on an NVIDIA GPU. Not built by the tests: they compare what it installs with the Makefile and constraints.txt.
#
#   docker build -t reeltune .
#   docker run --gpus all --ipc=host -v "$PWD":/mnt -w /mnt reeltune \
#       accelerate launch /opt/reeltune/train/sft.py my_recipe.yaml
#
# --ipc=host: data loader workers hand batches over in shared memory, of which a container has 64 MB by itself.

# torch's wheels bring the CUDA libraries; their CUDA version is the image's.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/reeltune
COPY . .
RUN make install

ENV PATH=/opt/reeltune/.venv/bin:$PATH
CMD ["bash"]
