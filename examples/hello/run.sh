#!/usr/bin/env bash
# Builds Kiln, then builds this folder's Dockerfile with it into ./out. No daemon, runc, registry or network needed
# beyond the crates. More arguments go to `buildctl build`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
cargo build --locked --release --bin buildkitd --bin buildctl
cargo rustc --locked --release --quiet --package toolbox --bin toolbox --target-dir target/static -- -C target-feature=+crt-static
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp -r "$here/Dockerfile" "$here/app" "$context/"
cp target/static/release/toolbox "$context/toolbox"
out=${OUT:-$root/out}
target/release/buildctl build \
    --frontend dockerfile.v0 \
    --local context="$context" \
    --local dockerfile="$context" \
    --output type=local,dest="$out" \
    "$@"
echo "--- $out"
cat "$out/greeting"
