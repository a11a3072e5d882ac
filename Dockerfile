# docker build -t monai-diffrecon .        with the default build of PyTorch; for NVIDIA GPUs, docker run --gpus all ...
# docker build -t monai-diffrecon --build-arg TORCH_INDEX=ADDRESS .    with another build: ADDRESS is that of its package
#     index, as PyTorch's page "Get started" has it. The one for CPUs makes a much smaller image.
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" monai-diffrecon reconstruct thick.nii.gz
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheels
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . ./plugins/diffrecon-bundles

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
COPY constraints.txt /
RUN --mount=from=wheels,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --constraint /constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl
# For any user, also one whom the image does not know.
ENV HOME=/tmp USER=diffrecon
USER 1000
WORKDIR /data
ENTRYPOINT ["diffrecon"]
CMD ["--help"]
