#!/bin/bash
# Installs Debian's Chromium, in which the report is tested, where there is no browser yet. Needs root and apt-get.
set -euo pipefail
for program in chromium chromium-browser google-chrome; do
  if command -v "$program" >/dev/null; then exit 0; fi
done
echo "install_browser.sh: installing chromium" >&2
export DEBIAN_FRONTEND=noninteractive
options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
timeout 300 apt-get "${options[@]}" update </dev/null >/dev/null
timeout 600 apt-get "${options[@]}" install -y --no-install-recommends chromium fonts-dejavu-core </dev/null >/dev/null
