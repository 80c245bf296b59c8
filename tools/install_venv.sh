#!/bin/sh
# Debian and Ubuntu ship Python without venv; fetch it, or say what to do.
set -e
root=''
[ "$(id -u)" = 0 ] || root=$(command -v sudo || true)
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || [ -n "$root" ]; }; then
    $root apt-get update -qq && $root apt-get install -y -qq python3-venv
else
    echo "this Python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv) and run make again" >&2
    exit 1
fi
