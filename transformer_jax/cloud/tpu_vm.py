"""A run on a Cloud TPU as a bash script, which requests the TPU and deletes it at the end."""

import shlex
from collections.abc import Sequence

from transformer_jax.cloud import checkout, launch_line


def script(
    arguments: Sequence[str],
    *,
    name: str,
    folder: str,
    accelerator: str,
    zone: str,
    runtime_version: str = "",
    spot: bool = False,
    keep: bool = False,
) -> str:
    """The script: settings, and then the same text for every run.

    Args:
      arguments: of launch.py.
      name: of the queued resource and of the VM.
      folder: the checkout to copy.
      accelerator: v5litepod-16, ….
      zone: Google Cloud's.
      runtime_version: the VM's software; "" = chosen by the accelerator.
      spot: whether Google may reclaim the VM, which is cheaper.
      keep: whether to leave the VM running at the end.

    Raises:
      UserError: if the name or the accelerator is invalid.
    """
    launch_line.check_name(name)
    settings = {
        "name": name,
        "zone": zone,
        "accelerator": accelerator,
        "version": runtime_version or launch_line.runtime_version(accelerator),
        "spot": "--spot" if spot else "",
        "wait": "24h",  # Google then drops the request
        "max_reclaimed": "20",
        "keep": "yes" if keep else "",
        "folder": folder,
    }
    lines = [f"{name}={value and shlex.quote(value)}" for name, value in settings.items()]
    launch = shlex.join([".venv/bin/python", "launch.py", *arguments])
    install = "\n".join(checkout.install_commands("tpu"))
    texts = [_variable("launch", launch), _variable("install", install)]
    return "\n".join([_ABOUT, *lines, *texts, _BODY])


def _variable(name: str, text: str) -> str:
    """An assignment in bash of a text that stays readable, because it needs no further quotes."""
    return f"read -rd '' {name} << 'END'\n{text}\nEND"


_ABOUT = """\
#!/bin/bash
# bash THIS_FILE. It requests the TPU, copies the checkout, runs the command on every worker, shows
# the log, deletes the TPU (after Ctrl-C, too), and exits with the run's status. A TPU that Google
# reclaims is replaced, and the run resumes from its workdir. Change the settings as you like:
"""

# gcloud runs in the background, because bash handles a signal at once only during `wait`. A queued
# resource has --runtime-version where a VM has --version. ssh must notice a reclaimed VM, which
# does not close its connections.
_BODY = r"""
log() { echo "$*" >&2; }
pause() { sleep "$1" & wait $!; }
tpus() { gcloud compute tpus "$@" --zone="$zone" --quiet & wait $!; }
on_workers() {
    tpus tpu-vm ssh "$name" --worker=all --command="$1" \
        --ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=30
}
delete=(queued-resources delete "$name" --force)

at_exit() {
    trap '' INT TERM HUP  # the deletion must not be interrupted
    kill $(jobs -p) 2> /dev/null
    rm -rf "$temporary"
    [ "$requested" ] || return
    if [ ! "$keep" ]; then
        log "deleting $name"
        tpus "${delete[@]}" && return
    fi
    log "$name may still exist, and cost money; delete it with:"
    log "  gcloud compute tpus ${delete[*]} --zone=$zone"
}

state() {
    for try in {1..30}; do
        tpus queued-resources describe "$name" --format='value(state.state)' && return
        pause 20
    done
}

wait_until_active() {
    local now before=
    while true; do
        now=$(state)
        [ "$now" = "$before" ] || log "$name: $now"
        before=$now
        case $now in
            ACTIVE) return 0 ;;
            SUSPENDING | SUSPENDED | '') return 1 ;;
            FAILED | DELETING)
                tpus queued-resources describe "$name" --format='yaml(state)' >&2
                exit 1
                ;;
        esac
        pause 20
    done
}

copy() {
    log "copying the checkout to $name"
    tpus tpu-vm scp "$temporary/checkout.tar.gz" "$name:" --worker=all
}

install() {
    log "installing on $name"
    on_workers "set -e
rm -rf transformer_jax
mkdir transformer_jax
tar -xzf checkout.tar.gz -C transformer_jax
cd transformer_jax
$install"
}

# Starts the run, which outlives the connection; or, if it is started, only shows its log again.
run() {
    on_workers "cd transformer_jax || exit
run() { trap '' HUP; $launch; echo \$? > run.status; }
[ -e run.log ] || { : > run.log; run < /dev/null >> run.log 2>&1 & echo \$! > run.pid; }
tail -n 100 -f --pid=\$(cat run.pid) run.log
exit \$(cat run.status || echo 1)"
}

work() {
    wait_until_active && copy && install || return
    log "running on $name"
    until run; do
        local status=$?
        pause 20
        # 255 = the connection was lost.
        [ $status = 255 ] && [ "$(state)" = ACTIVE ] || return $status
    done
}

requested=
temporary=$(mktemp -d)
trap at_exit EXIT
trap 'exit 130' INT TERM HUP
# What git would commit after `git add --all`, which a copy of the index leaves undone.
(
    cd "$folder" || exit
    cp "$(git rev-parse --git-path index)" "$temporary/index"
    export GIT_INDEX_FILE=$temporary/index
    git add --all && git archive --output="$temporary/checkout.tar.gz" "$(git write-tree)"
) || exit

for ((reclaimed = 0; reclaimed <= max_reclaimed; reclaimed++)); do
    if tpus queued-resources describe "$name" > /dev/null 2>&1; then
        log "$name exists; wait for its run, delete it, or give another --name"
        exit 1
    fi
    log "requesting $name"
    requested=yes
    tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$accelerator" \
        --runtime-version="$version" --valid-until-duration="$wait" $spot || { requested=; exit 1; }
    work && exit
    status=$?
    pause 40  # a run fails a little before its TPU is reported as reclaimed
    [ "$(state)" = ACTIVE ] && exit $status
    log "$name was reclaimed, $((reclaimed + 1)) times so far"
    tpus "${delete[@]}"
    requested=
done
log "giving up; run this file again to resume"
exit 1
"""
