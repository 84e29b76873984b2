#!/usr/bin/env bash
# What launch/tpu_vm.py asks every worker of a TPU slice to do, over ssh:
#
#   worker.sh install [gs://BUCKET/PATH ...]   the environment; copies of data
#   worker.sh start COMMAND...                 runs it on its own, into run.log
#   worker.sh state                            of that command, its last line
#   worker.sh stop                             asks it to save and end
set -euo pipefail
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
    echo "$(date -u +%FT%TZ) $*" >> run.log
    # Detached: it outlives the connection. Only the command itself is
    # signalled by `stop`, so this shell is there to write its status.
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
      state="ended with status $(cat run.status)"
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
    echo "error: ${1:-no action}; legal are install, start, state, stop" >&2
    exit 2
    ;;
esac
