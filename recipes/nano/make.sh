#!/bin/sh
# Nano from nothing: rooms, nine stages, temperatures of the scores, the test, the folder that is shipped, the page.
# Hours on two CPU cores. Whatever is stopped goes on when run again; language may run beside geometry and depth.
# All that it sees are rooms of this package, through one camera: 70 degrees wide, 1.4 m up, 20 degrees down, level, turned
# a little between frames 0.35 s apart; asked for are objects that cover 1 % of a frame. Expect little elsewhere.
# Rooms seen often are known by heart: refine and finish have others than align, adapt and polish; widen has its own.
# geometry, depth and language are in recipes/nano/foundation; they were trained in bfloat16, for CPUs that have it.
set -eu
rooms="--size 128x96 --camera robot"
asked="--texts 10 --min-share 0.01"
gapmllm data synth --out runs/rooms/train --scenes 3000 --frames 6 $rooms --tasks none
gapmllm data synth --out runs/rooms/more --first 3000 --scenes 3000 --frames 6 $rooms --tasks none
gapmllm data synth --out runs/rooms/third --first 6000 --scenes 3000 --frames 6 $rooms --tasks none
gapmllm data synth --out runs/rooms/fourth --first 9000 --scenes 3000 --frames 6 $rooms --tasks none
gapmllm data synth --out runs/rooms/asked --scenes 200 --frames 4 $rooms $asked  # for the baseline `mean`
gapmllm data synth --out runs/rooms/val --split val --scenes 60 --frames 4 $rooms $asked
gapmllm data synth --out runs/rooms/test --split test --scenes 200 --frames 4 $rooms $asked
for stage in geometry depth language align adapt refine polish finish widen; do
    torchrun --nproc_per_node 2 -m gapmllm train "recipes/nano/$stage.yaml"
done
gapmllm eval runs/nano/widen runs/rooms/val --split val --max-tokens 768 --out runs/nano/val --calibrate
gapmllm export runs/nano/widen runs/nano/export
gapmllm eval runs/nano/export runs/rooms/test --max-tokens 768 --out runs/nano/eval \
    --baselines blind,mean,no-geometry --train-data runs/rooms/asked
gapmllm export runs/nano/widen src/gapmllm/model/shipped/nano --overwrite \
    --scores runs/nano/eval --made-by recipes/nano/make.sh
mkdir -p docs/results/nano && cp runs/nano/eval/scores.json docs/results/nano/
gapmllm ablate recipes/nano/ablation.yaml --report-only
