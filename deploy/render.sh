#!/usr/bin/env bash
# Writes what is made of other files: the chart's copies of the alerts and the dashboard, its schema, its README, and deploy/kubernetes, which is the
# chart rendered with deploy/values.yaml. With --check it writes nothing, and says whether all of that is as it would be written.
# HELM names the program, helm by default, 3 or 4; Python needs PyYAML.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

helm=${HELM:-helm}
chart=helm/pathcast
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

# rendered FILE TEMPLATE… [-- OPTION…]: those of the chart's templates that make something, as one file, without what only Helm needs. Helm 3
# and 4 part documents by different blank lines.
rendered() {
  local file=$1 folder template templates=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    templates+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  folder=$(mktemp -d -p "$fresh")
  "$helm" template pathcast "$chart" --namespace pathcast --values deploy/values.yaml --output-dir "$folder" "$@" >"$folder/log"
  {
    echo "# Rendered from helm/pathcast by deploy/render.sh."
    for template in "${templates[@]}"; do
      [ ! -f "$folder/pathcast/templates/$template.yaml" ] || cat "$folder/pathcast/templates/$template.yaml"
    done | sed -e '/^ *helm.sh\/chart:/d' -e '/^ *app.kubernetes.io\/managed-by:/d' -e '/^# Source:/d' -e '/^$/d'
  } >"$fresh/kubernetes/$file"
}

mkdir "$fresh/kubernetes" "$fresh/files"
cp deploy/prometheus/alerts.yaml "$fresh/files/"
cp deploy/grafana/pathcast.json "$fresh/files/dashboard.json"
helm/schema.py >"$fresh/values.schema.json"
# The chart that is rendered has the files as they are to be.
cp -r "$chart" "$fresh/chart"
cp "$fresh"/files/* "$fresh/chart/files/"
cp "$fresh/values.schema.json" "$fresh/chart/"
chart=$fresh/chart

rendered pathcast.yaml serviceaccount role configmap deployment service poddisruptionbudget networkpolicy
rendered ingress.yaml ingress
rendered httproute.yaml httproute
rendered monitoring.yaml monitor prometheusrule dashboard
rendered hpa.yaml horizontalpodautoscaler -- --set autoscaling.hpa.enabled=true,autoscaling.minReplicas=3
rendered keda.yaml scaledobject -- --set autoscaling.keda.enabled=true,autoscaling.minReplicas=3 \
  --set autoscaling.keda.serverAddress=http://prometheus.monitoring:9090

if [ "${1:-}" = --check ]; then
  diff -r "$fresh/files" helm/pathcast/files && diff "$fresh/values.schema.json" helm/pathcast/values.schema.json && diff -r "$fresh/kubernetes" deploy/kubernetes && helm/readme.py --check || {
    echo "these are not as they would be made: run deploy/render.sh" >&2
    exit 1
  }
else
  cp "$fresh"/files/* helm/pathcast/files/
  cp "$fresh/values.schema.json" helm/pathcast/
  rm -rf deploy/kubernetes
  cp -r "$fresh/kubernetes" deploy/kubernetes
  helm/readme.py
fi
