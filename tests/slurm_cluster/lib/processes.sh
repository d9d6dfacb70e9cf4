# Daemons by their pid files, and waiting with a deadline; sourced by up.sh, down.sh and node.sh.

# alive PIDFILE NAME: a pid file may outlive its process and the number be taken by another, so the name must fit too
alive() {
  local pid; pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status"
}

# end PIDFILE NAME: SIGTERM, 10 s, then SIGKILL
end() {
  if alive "$1" "$2"; then
    kill "$(cat "$1")" 2>/dev/null || true
    waitfor 10 gone "$1" "$2" || kill -9 "$(cat "$1")" 2>/dev/null || true
  fi
  rm -f "$1"
}

gone() { ! alive "$@"; }

# waitfor SECONDS COMMAND...: until it succeeds; fails after SECONDS
waitfor() {
  local last=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$SECONDS" -le "$last" ] || return 1; sleep 0.05; done
}

# alone SCRIPT ARGUMENT...: runs the calling script again under a lock, so that no two change the cluster at a time
alone() {
  [ -z "${TB_LOCKED:-}" ] || return 0
  local code=0  # -o: the daemons must not inherit the lock
  TB_LOCKED=1 flock -o -w 120 -E 99 "$RUN.lock" "$@" || code=$?
  [ $code != 99 ] || echo "$(basename "$1"): another up.sh or down.sh has held $RUN.lock for 120 s" >&2
  exit $code
}
