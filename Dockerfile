# The command line in a container, for CPUs and for NVIDIA GPUs (--gpus all):
#   docker build -t nasdm-wsi .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" nasdm-wsi \
#       render nuclei.geojson -o slide.ome.tif --mpp 0.25
FROM python:3.11-slim
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir -q -c constraints.txt .
# A user without a home writes its caches here.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["nasdm-wsi"]
