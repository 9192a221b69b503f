#!/bin/sh
# Make an environment with the peers of `make evidence TOPIC=encoder`: scripts/peers/encoders.sh FOLDER, then
# export PEER_PYTHON=FOLDER/bin/python. About 1.5 GB; torch comes without CUDA.
set -eu
folder=${1:?which folder? scripts/peers/encoders.sh FOLDER}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "torch==2.13.0+cpu" sentence-transformers==6.2.0 transformers==5.24.0 onnx==1.23.2 \
    onnxruntime==1.32.0 openvino==2026.4.1
echo "export PEER_PYTHON=$folder/bin/python"
