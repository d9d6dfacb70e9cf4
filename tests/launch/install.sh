#!/bin/bash
# Installs from Debian's packages what is missing of the programs in which commands are tested: a browser for the report,
# shells for the completion. Needs root and apt-get.
set -euo pipefail
packages=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
  || packages+=(chromium fonts-dejavu-core)
for shell in zsh fish; do command -v "$shell" >/dev/null || packages+=("$shell"); done
[ ${#packages[@]} -gt 0 ] || exit 0
echo "install.sh: installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
timeout 300 apt-get "${options[@]}" update </dev/null >/dev/null
timeout 600 apt-get "${options[@]}" install -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
