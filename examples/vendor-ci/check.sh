#!/bin/sh
# A vendor's CI: every SKU file is valid, and can be planned against the state captured on its hardware.
#
#     check.sh FOLDER...      each with an appliance.yaml and a state.json (from `reconcile observe` on the machine)
#
# A plan with changes is fine (3): the machine was captured before it was set up. A problem (1) is not: a port does not
# match any NIC of the machine, or matches the management port.
set -eu
for folder in "$@"; do
    reconcile validate "$folder/appliance.yaml"
    for topology in inspect bypass; do
        status=0
        reconcile -f "$folder/appliance.yaml" --dry-run --against "$folder/state.json" --topology "$topology" || status=$?
        case $status in
            0 | 3) ;;
            *) exit "$status" ;;
        esac
    done
done
