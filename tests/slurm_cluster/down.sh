#!/bin/bash
# Stops what up.sh started, by recorded process ids only, and waits until it is gone; keeps packages and state directory.
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd); . "$HERE/testbed.env"

# end PIDFILE: SIGTERM, up to 10 s, then SIGKILL
end() {
  local pid; pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null
  for _ in $(seq 1 100); do kill -0 "$pid" 2>/dev/null || { rm -f "$1"; return 0; }; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null; rm -f "$1"
}

for i in $(seq 1 "$TB_NODES"); do
  "$HERE/node.sh" crash "node$i" 2>/dev/null
  ip link del "tb-node$i" 2>/dev/null; ip netns del "node$i" 2>/dev/null
done
end "$RUN/slurmctld.pid"
end "$RUN/slurmdbd.pid"   # before its database
end "$RUN/mysql/mariadb.pid"; rm -f "$RUN/mariadb.pid"
end /run/munge/testbed-munged.pid
ip link del "$BR" 2>/dev/null
true
