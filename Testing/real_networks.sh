#!/usr/bin/env bash
# Runs the tests of networks of your own with every package that real networks come from, all networks by console, file and
# panel, and the panel by processes as in Slicer. In an environment of its own, with the newest PyTorch: torchvision, which
# onnx2torch and deepinv need, fits one version of torch only, and there is none for the pinned CPU-only one.
#   Testing/real_networks.sh [PYTHON]        VENV=folder names another environment, which is then taken as it is
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-real-networks}

if [[ -z ${VENV:-} && ! -e $venv/ready ]]; then
  "${1:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet ".[test,onnx]" torchvision deepinv timm onnxscript \
    dynamic-network-architectures segmentation-models-pytorch
  "$venv/bin/python" -m pip uninstall --quiet --yes netinversion  # the tests take this folder's
  touch "$venv/ready"
fi
export NETINVERSION_REAL_NETWORKS=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$venv/bin/python" -m pytest --durations=5 Testing/tests/models/test_real_networks.py \
  Testing/tests/modules/test_real_networks_modules.py Testing/tests/models/test_import_network.py \
  Testing/tests/models/test_published_networks.py
