#!/usr/bin/env bash
# The whole road, once, in demo/: simulate, train, export, classify, score; for both tasks.
# `make demo` calls it. A run that was killed is gone on with when it is called again.
set -euo pipefail

root=$PWD
mkdir -p demo
cd demo

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
# lens-infer exits with 3 where some cutouts were rejected
classify() { show lens-infer "$@" || [ $? -eq 3 ]; }

say "1. Dark-matter substructure: no, sphere or vort"
show lens-simulate substructure --flat --count 600 --seed 7 --out catalog
show lens-train substructure --recipe quick
show lens-export runs/substructure --fp16
show lens-infer 'catalog/*.npy' --model bundles/substructure --plan
classify 'catalog/*.npy' --model bundles/substructure --out preds.csv --top 20 --target sphere
show lens-verify preds.csv 'catalog/*.npy' --model bundles/substructure
show python "$root/benchmarks/score.py" preds.csv catalog/params.csv

say "2. The full ResNeXt50 through the same road: a few steps, so it has learnt nothing yet"
show lens-simulate substructure --count 100 --seed 8 --out few
show lens-train substructure --data few --out runs/resnext50 -o epochs=1 -o steps_per_epoch=8
show lens-export runs/resnext50 --out bundles/resnext50
classify 'catalog/?.npy' 'catalog/??.npy' --model bundles/resnext50 --out preds_resnext50.csv

say "3. Lens or not: SimCLR, then logistic regression"
show lens-simulate lensfinding --flat --count 120 --seed 9 --out sky
show lens-train lensfinding --recipe quick
show lens-export runs/lensfinding
classify 'sky/*.npy' --model bundles/lensfinding --out preds_sky.csv --encodings encodings.npy
show python "$root/benchmarks/score.py" preds_sky.csv sky/params.csv

say "Done. In demo/: preds.csv and preds_sky.csv, and these pictures"
find . -name '*.png' | sort
