#!/usr/bin/env bash
# Runs on every worker of a TPU slice, called over ssh by launch/tpu_vm.py:
#
#   worker.sh install [gs://BUCKET/PATH ...]   installs, copies data
#   worker.sh start COMMAND...                 runs it in the background, into
#                                              run.log
#   worker.sh state                            prints its state and last line
#   worker.sh stop                             sends it SIGTERM
set -euo pipefail
# The clone, from which `launch` and `configs` are imported.
cd "$(dirname "$0")/.."

running() {
  [[ -f run.pid && ! -f run.status ]] && kill -0 "$(cat run.pid)" 2>/dev/null
}

case "${1:-}" in
  install)
    shift
    # The system's Python is too old on some images.
    export PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    [[ -d .venv ]] || uv venv --python 3.12
    uv pip install --quiet -r requirements.txt -r requirements-tpu.txt
    uv pip install --quiet --no-deps --editable .
    for source in "$@"; do
      gcloud storage cp --recursive --no-clobber "$source" .
    done
    echo "installed on $(hostname)"
    ;;
  start)
    shift
    if running; then
      echo "error: a command is running on $(hostname); stop it first" >&2
      exit 2
    fi
    rm -f run.status
    echo "$(date -u +%FT%TZ)$(printf ' %q' "$@")" >> run.log
    # Detached, so that it outlives the connection. `stop` signals only the
    # command itself, so this shell remains to write its status.
    # shellcheck disable=SC2016
    setsid bash -c '
      "$@" & echo $! > run.pid
      wait $!
      echo $? > run.status' worker.sh "$@" >> run.log 2>&1 < /dev/null &
    echo "started on $(hostname)"
    ;;
  state)
    if running; then
      state=running
    elif [[ -f run.status ]]; then
      state="exited with status $(cat run.status)"
    else
      state='not running'
    fi
    echo "$(hostname): $state; $(tail -n 1 run.log 2>/dev/null || true)"
    ;;
  stop)
    if running; then
      kill -TERM "$(cat run.pid)"
      echo "$(hostname): saving"
    else
      echo "$(hostname): nothing is running"
    fi
    ;;
  *)
    echo "error: unknown action '${1:-}';" \
      "expected one of install, start, state, stop" >&2
    exit 2
    ;;
esac
