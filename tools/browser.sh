#!/usr/bin/env bash
# The browser that tests look at the pages with, and axe-core, which says what is wrong with them for people who see or
# move otherwise. Chromium comes from the distribution (tools/deps.sh test), axe-core once from the package index, outside
# of the clone. Safe to run again, and offline once made. Prints the browser and the script, one a line.
set -euo pipefail
cache=${MESETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meseta}
mkdir -p "$cache"
version=4.10.3
sum=5e6edba515e70d25f6604d9815f064d859c5d1ea7ab661bbc4f87c88779ef0c21cae0abbeb636471ef39e9d62d2582e4b88a1866f19f4ecfcf6d986275e4dc12

browser=${MESETA_CHROMIUM:-$(command -v chromium || true)}
if [ -z "$browser" ]; then
  echo "there is no Chromium: tools/deps.sh test installs Debian's; elsewhere say where it is with MESETA_CHROMIUM=PATH" >&2
  exit 1
fi
echo "$browser"

script=$cache/axe-core-$version.js
if [ ! -f "$script" ]; then
  (
    flock 9 # Tests run this too: the second waits.
    [ -f "$script" ] && exit 0
    made=$(mktemp -d "$cache/axe-core.XXXXXX")
    trap 'rm -rf "$made"' EXIT
    if command -v npm >/dev/null; then
      (cd "$made" && npm pack --silent "axe-core@$version" >/dev/null)
    else
      curl -fsSL -o "$made/axe-core-$version.tgz" "https://registry.npmjs.org/axe-core/-/axe-core-$version.tgz"
    fi
    echo "$sum  $made/axe-core-$version.tgz" | sha512sum --check --quiet >&2
    tar -xzf "$made/axe-core-$version.tgz" -C "$made" package/axe.min.js
    mv "$made/package/axe.min.js" "$script"
  ) 9>"$cache/axe-core.lock"
fi
echo "$script"
