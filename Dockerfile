# docker build -t monai-diffrecon .                              for CPUs
# docker build -t monai-diffrecon --build-arg TORCH=cu130 .      for NVIDIA GPUs; then docker run --gpus all ...
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" monai-diffrecon reconstruct thick.nii.gz
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheels
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . ./plugins/diffrecon-bundles

FROM python:${PYTHON}-slim
# The build of PyTorch: a folder of its index.
ARG TORCH=cpu
COPY constraints.txt /
RUN --mount=from=wheels,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --constraint /constraints.txt \
    --extra-index-url "https://download.pytorch.org/whl/${TORCH}" /wheels/*.whl
# For any user, also one whom the image does not know.
ENV HOME=/tmp USER=diffrecon
USER 1000
WORKDIR /data
ENTRYPOINT ["diffrecon"]
CMD ["--help"]
