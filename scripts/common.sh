# SPDX-License-Identifier: GPL-2.0-or-later
# What every script here shares: sourced by bash, never run.

set -euo pipefail

# Another python or meson may come first in the user's PATH; QEMU's build and pytest want Debian's.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CLOUDBLK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloudblk}
readonly repo cache

say() { printf '%s\n' "$*" >&2; }

# What the script's head says.
case ${1-} in
  -h | --help)
    sed -n '/^# Usage/,/^$/s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

die() {
  say "${0##*/}: $*"
  exit 1
}

# run_logged LOG COMMAND...: keeps the output in LOG and shows its end only on failure.
run_logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    die "failed: $* (whole log: $log)"
  }
}

# as_root COMMAND...: only package installation needs it.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || die "needs root to run: $*"
    sudo "$@"
  fi
}

# lock NAME: one process at a time works on that part of the cache; released when the shell exits.
lock() {
  mkdir -p "$cache"
  exec {lock_fd}>"$cache/.$1.lock"
  flock "$lock_fd"
}

# content_key TEXT...: short name for what a cached result was made from.
content_key() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# write_flags QEMU-BUILD FILE: the compile flags of that QEMU. An unchanged file keeps its time,
# since everything compiled with it depends on it.
write_flags() {
  local new
  new=$("$repo/scripts/qemu-cflags" "$1")
  mkdir -p "$(dirname "$2")"
  if [ ! -f "$2" ] || [ "$(cat "$2")" != "$new" ]; then
    printf '%s\n' "$new" >"$2"
  fi
}

# make_headers QEMU-BUILD: the headers that QEMU's build generates, and nothing else of it.
make_headers() {
  (
    cd "$1"
    headers=$(ninja -t targets all | sed -nE 's/^([^:]*\.h): CUSTOM_COMMAND.*/\1/p')
    # shellcheck disable=SC2086 # one word per header
    run_logged "$1/cloudblk-headers.log" ninja $headers
  )
}

# stock_version RELEASE: the version of Debian's QEMU packages that scripts/qemu-stock gives for that
# release: the one that it has unpacked, or the newest in the archive that is of that release, or
# else of its series. Nothing if there is none.
stock_version() {
  local known series beginning
  if [ -s "$cache/stock/$1/.complete" ]; then
    cat "$cache/stock/$1/.complete"
    return
  fi
  known=$(apt-cache madison qemu-system-x86 | awk '$NF != "Sources" { print $3 }' | sort -uV)
  series=$(sed -E 's/^([0-9]+\.[0-9]+).*/\1/' <<<"$1")
  for beginning in "$1" "$series"; do
    awk -v wanted="$beginning" '{
      plain = $0; sub(/^[0-9]+:/, "", plain)
      if (index(plain, wanted) == 1 && substr(plain, length(wanted) + 1) ~ /^[^0-9]/) found = $0
    } END { if (found == "") exit 1; print found }' <<<"$known" && return
  done
  return 0
}
