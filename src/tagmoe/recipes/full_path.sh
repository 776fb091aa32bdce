#!/usr/bin/env bash
# The whole path, from a pile of pictures to an editor, at the size of a toy: about 5 minutes on 2 cores.
#   bash recipes/full_path.sh [FOLDER]            by default runs/full-path; docs/full_path.md is its tutorial
#   SCALE=full bash recipes/full_path.sh          what each stage costs for Qwen-Image and 11 million rows; runs nothing
# Each stage is what a lab would type. After each, checks.py looks at what it left: a stage that did nothing fails.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/full_path
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

if [ "${SCALE:-toy}" = full ]; then
  exec "$PYTHON" "$HERE/costs.py"
elif [ "${SCALE:-toy}" != toy ]; then
  echo "error: SCALE is '$SCALE'; give toy or full." >&2
  exit 2
fi

OUT=${1:-runs/full-path}
if [ -e "$OUT" ]; then
  echo "error: '$OUT' is there already; delete it, or name another folder." >&2
  exit 2
fi
mkdir -p "$OUT"
LOG=$OUT/path.log
MODEL_SERVER=
LAUNCHER=
trap 'kill $MODEL_SERVER $LAUNCHER 2>/dev/null || true' EXIT

# begin STAGE: what the next commands are for
begin() { STAGE=$1; STARTED=$(date +%s.%N); echo; echo "== $STAGE"; }

# typed COMMAND...: the words as one line, quoted where a shell needs it
typed() {
  local word line=
  for word in "$@"; do
    case $word in *[[:space:]]*) word="\"$word\"" ;; esac
    line+="$word "
  done
  echo "${line% }"
}

# run COMMAND...: print it, run it; what it says goes to the log as well
run() {
  echo "+ $(typed "$@")" | tee -a "$LOG"
  printf '%s\t%s\n' "$STAGE" "$(typed "$@")" >> "$OUT/commands.tsv"
  "$@" 2>&1 | tee -a "$LOG"
}

# expect CODE COMMAND...: the same for a command that ends with another exit code
expect() {
  local wanted=$1 code=0
  shift
  run "$@" || code=$?
  [ "$code" = "$wanted" ] || { echo "error: exit code $code, not $wanted." >&2; exit 1; }
}

# passed: look at what the stage left, and note its seconds
passed() { "$PYTHON" "$HERE/checks.py" "$STAGE" "$OUT" "$STARTED"; }

begin base            # a dense text-to-image model of Qwen-Image's classes
run tagmoe train "$HERE/dense.yaml" --output-dir "$OUT/base"
passed

begin upcycle         # its last two FFNs become four experts each
run tagmoe upcycle "$OUT/base/model" "$OUT/upcycled" --num-moe-blocks 2
passed

begin pile            # files of two published schemas; a lab has downloaded them
run "$PYTHON" "$HERE/pile.py" "$OUT/pile"
passed

begin import
run tagmoe data import omniedit "$OUT/pile/omniedit" "$OUT/store"
run tagmoe data import nhr-edit "$OUT/pile/nhr-edit" "$OUT/store"
run tagmoe data import tagworld "$OUT/store" --count 96 --seed 11 --set tasks=add,recolour,replace,background,generate
passed

begin validate        # it finds what the pile has that is wrong, and says so by its exit code
expect 1 tagmoe data validate "$OUT/store" --workers 2 --out "$OUT/checks.html"
passed

begin annotate        # words and pixels for all; a model behind a server for some
run tagmoe data annotate "$OUT/store" --annotator rules
"$PYTHON" "$HERE/serve_model.py" "$OUT/vlm" "$OUT/store" > "$OUT/vlm.log" 2>&1 &
MODEL_SERVER=$!
for _ in $(seq 600); do
  [ ! -e "$OUT/vlm/url" ] || break
  kill -0 "$MODEL_SERVER" 2>/dev/null || { cat "$OUT/vlm.log" >&2; exit 1; }
  sleep 0.2
done
run tagmoe data annotate "$OUT/store" --endpoint "$(cat "$OUT/vlm/url")" --model "$(cat "$OUT/vlm/name")" --limit 24
kill "$MODEL_SERVER"
MODEL_SERVER=
passed

begin agree
run tagmoe data agree "$OUT/store" --a rules --b vlm --out "$OUT/agreement"
passed

begin invert
run tagmoe data invert "$OUT/store"
passed

begin encode
run tagmoe data encode "$OUT/store" --model "$OUT/upcycled" --workers 2
passed

begin train           # two processes, every term of Eq. 5; killed in the middle
echo "+ torchrun --nproc-per-node 2 -m tagmoe train $HERE/unified.yaml ..." | tee -a "$LOG"
SETTINGS=(--output-dir "$OUT/run" --set "data.store=$OUT/store" --set "start=$OUT/upcycled" --set "components=$OUT/upcycled")
TRAIN="torchrun --nproc-per-node 2 -m tagmoe train $HERE/unified.yaml ${SETTINGS[*]}"
printf '%s\t%s\n' "$STAGE" "$TRAIN" >> "$OUT/commands.tsv"
torchrun --nproc-per-node 2 --master-port "$("$PYTHON" "$HERE/free_port.py")" -m tagmoe train "$HERE/unified.yaml" \
  "${SETTINGS[@]}" > "$OUT/train.log" 2>&1 &
LAUNCHER=$!
"$PYTHON" "$HERE/checks.py" step "$OUT" 25 "$LAUNCHER" || { cat "$OUT/train.log" >&2; exit 1; }
printf '%s\t%s\n' "$STAGE" "kill -9 (the launcher and both ranks)" >> "$OUT/commands.tsv"
kill -9 $(pgrep -P "$LAUNCHER") "$LAUNCHER"
wait "$LAUNCHER" 2>/dev/null || true
LAUNCHER=
passed

begin resume          # on one process, from the newest checkpoint
run tagmoe train "$HERE/unified.yaml" --output-dir "$OUT/run" --set "data.store=$OUT/store" --set "start=$OUT/upcycled" --set "components=$OUT/upcycled" --resume
passed

begin export
run tagmoe export "$OUT/run" --format diffusers --out "$OUT/editor"
run tagmoe export "$OUT/run" --format safetensors --out "$OUT/single"
passed

begin edit
run tagmoe edit example:scene -p "make the star blue" -m "$OUT/editor" -o "$OUT/edited.png" --seed 0 --explain "$OUT/explained.html"
run tagmoe generate -p "a red heart at the top left on a sky blue background" -m "$OUT/editor" -o "$OUT/made.png" --seed 0
passed

begin evaluate        # beside two anchors
run tagmoe eval prepare tagworld --cases 2 --out "$OUT/bench"
run tagmoe eval generate "$OUT/bench" --model "$OUT/editor" --name full-path --out "$OUT/outputs"
run tagmoe eval generate "$OUT/bench" --editor target --out "$OUT/target"
run tagmoe eval generate "$OUT/bench" --editor copy --out "$OUT/copy"
run tagmoe eval score "$OUT/bench" "$OUT/outputs" "$OUT/target" "$OUT/copy"
run tagmoe eval report "$OUT/bench" "$OUT/outputs" "$OUT/target" "$OUT/copy" --out "$OUT/scores"
run tagmoe eval compare "$OUT/bench" "$OUT/copy" "$OUT/outputs"
passed

begin routing         # what the experts did
run tagmoe routing record --model "$OUT/editor" --cases 2 --controls 2 --out "$OUT/recording"
run tagmoe routing report "$OUT/recording" --out "$OUT/routing"
passed

begin page
"$PYTHON" "$HERE/page.py" "$OUT"
passed
echo
echo "$OUT/index.html"
