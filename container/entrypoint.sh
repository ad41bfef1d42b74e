#!/bin/sh
# SageMaker mounts /opt/ml as root's: hand over what a job reads and writes, then step down, so that nothing of ours runs
# as root. A container that is started as another user (docker run --user) goes on as that one.
step_down="setpriv --reuid=1000 --regid=1000 --clear-groups"
if [ "$(id -u)" = 0 ] && $step_down true; then
    base=${SAGEMAKER_BASE_DIR:-/opt/ml}
    mkdir -p "$base/code" "$base/model" "$base/output"
    chown 1000:1000 "$base" || echo "warning: $base stays root's" >&2
    for folder in code model output checkpoints; do
        [ ! -d "$base/$folder" ] || chown -R 1000:1000 "$base/$folder" || echo "warning: $base/$folder stays root's" >&2
    done
    exec $step_down "$@"
fi
exec "$@"
