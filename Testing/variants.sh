#!/usr/bin/env bash
# Runs the tests as older processors, one and two threads and a busy machine have them, and prints a line for each.
# Arguments go to pytest:
#   Testing/variants.sh
#   Testing/variants.sh Testing/tests/optimise -k order
set -uo pipefail
cd "$(dirname "$0")/.."
make --silent .venv/ready
logs=Testing/output/variants
mkdir -p "$logs"
failed=0

# A processor that knows no AVX, and one that ends at AVX2, for each library that chooses its code by the processor:
# PyTorch, oneDNN, MKL, NumPy and the OpenBLAS of NumPy and SciPy.
newer="X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX"
old=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=PRESCOTT
  NPY_DISABLE_CPU_FEATURES="X86_V3 AVX2 FMA3 $newer")
avx2=(ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=HASWELL
  NPY_DISABLE_CPU_FEATURES="$newer")

run() {  # NAME [VARIABLE=VALUE...] [COMMAND...]: the tests under it, a line, and the log beside
  local name=$1 begin=$SECONDS
  shift
  local verdict=pass
  env "$@" .venv/bin/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder \
    ${arguments[@]+"${arguments[@]}"} >"$logs/$name.log" 2>&1 || { verdict=FAIL; failed=1; }
  printf '| %s | %s | %s | %d s |\n' "$name" "$verdict" "$(tail -1 "$logs/$name.log")" $((SECONDS - begin))
}

busy() {  # The same, at low priority beside two programs that never rest, as if from another terminal
  loops=()
  for _ in 1 2; do
    $(command -v setsid) bash -c 'while :; do :; done' &
    loops+=($!)
  done
  trap 'kill "${loops[@]}"' EXIT
  run "$@"
  trap - EXIT
  kill "${loops[@]}"
  wait "${loops[@]}" 2>/dev/null
}

arguments=("$@")
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
for threads in 1 2; do
  export OMP_NUM_THREADS=$threads
  run "this-processor-$threads"
  run "avx2-$threads" "${avx2[@]}"
  run "no-avx-$threads" "${old[@]}"
done
busy busy nice -n 10
exit $failed
