{{/* The gateway's file: `config` and what the chart adds, as TOML. */}}

{{/* One value, on one line: JSON's strings are TOML's, too. */}}
{{- define "pathcast.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "float64" . -}}
{{- /* Helm reads every number of a file as one of these. */ -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "pathcast.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $key, $value := . -}}
{{- /* As in Helm's own values, null takes a default away. */ -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $items = append $items (printf "%s = %s" (include "pathcast.tomlKey" $key) (include "pathcast.tomlValue" $value)) -}}
{{- end -}}
{{- end -}}
{ {{ join ", " $items }} }
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- define "pathcast.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end -}}

{{/* A table, `{name, values}`: what fits on a line first, then lists of tables. */}}
{{- define "pathcast.tomlTable" -}}
{{- $tables := dict -}}
{{- range $key, $value := .values -}}
{{- if and (kindIs "slice" $value) (kindIs "map" (first ($value | default (list nil)))) -}}
{{- $_ := set $tables $key $value -}}
{{- else if not (kindIs "invalid" $value) }}
{{ include "pathcast.tomlKey" $key }} = {{ include "pathcast.tomlValue" $value }}
{{- end -}}
{{- end }}
{{ range $key, $value := $tables -}}
{{- include "pathcast.tomlTables" (dict "name" (printf "%s.%s" $.name (include "pathcast.tomlKey" $key)) "list" $value) -}}
{{- end -}}
{{- end -}}

{{/* A list of tables, `{name, list}`. */}}
{{- define "pathcast.tomlTables" -}}
{{- range .list }}
[[{{ $.name }}]]
{{- include "pathcast.tomlTable" (dict "name" $.name "values" .) -}}
{{- end -}}
{{- end -}}

{{/* Sections, and lists of them. */}}
{{- define "pathcast.toml" -}}
{{- range $name, $section := . -}}
{{- if kindIs "map" $section }}
[{{ $name }}]
{{- include "pathcast.tomlTable" (dict "name" $name "values" $section) -}}
{{- else if kindIs "slice" $section -}}
{{- include "pathcast.tomlTables" (dict "name" $name "list" $section) -}}
{{- else if not (kindIs "invalid" $section) -}}
{{- fail (printf "config.%s: sections are maps, or lists of maps" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The keys with where each is kept, as YAML: name, scopes, paths, and sha256 or secret; `made` where the chart makes it up. */}}
{{- define "pathcast.keys" -}}
{{- $made := include "pathcast.madeSecret" . -}}
{{- $keys := list -}}
{{- range .Values.api.keys -}}
{{- if or .sha256 .secret -}}
{{- $keys = append $keys . -}}
{{- else -}}
{{- $keys = append $keys (merge (dict "made" true "secret" (dict "name" $made "key" .name)) .) -}}
{{- end -}}
{{- end -}}
{{- $secret := fromYaml (include "pathcast.metricsSecret" .) -}}
{{- $keys = append $keys (dict "name" "metrics" "scopes" (list "metrics") "secret" $secret "made" (not .Values.metrics.secret.name)) -}}
{{- if .Values.test.enabled -}}
{{- $secret := dict "name" $made "key" "helm-test" -}}
{{- $keys = append $keys (dict "name" "helm-test" "scopes" (list "publish") "paths" (list .Values.test.path) "secret" $secret "made" true) -}}
{{- end -}}
{{- toYaml $keys -}}
{{- end -}}

{{/* All settings, as YAML. The API answers the kubelet and other pods, so it is on all interfaces, and has keys. */}}
{{- define "pathcast.settings" -}}
{{- $config := deepCopy .Values.config -}}
{{- $address := ternary "[::]" .Values.listenAddress (eq .Values.listenAddress "::") -}}
{{- $keys := list -}}
{{- range fromYamlArray (include "pathcast.keys" .) -}}
{{- $key := pick . "name" "scopes" "paths" "sha256" -}}
{{- if .secret }}{{ $_ := set $key "key_file" (printf "/run/secrets/pathcast/%s" .name) }}{{ end -}}
{{- $keys = append $keys $key -}}
{{- end -}}
{{- $_ := set $config "clients" (merge (dict "listen" (printf "%s:8080" $address)) ($config.clients | default dict)) -}}
{{- $_ := set $config "api" (dict "listen" (printf "%s:8081" $address) "key" $keys) -}}
{{- if .Values.test.enabled -}}
{{- $_ := set $config "path" (append ($config.path | default list) (dict "path" .Values.test.path)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What changes when pods have to be restarted: all but paths and upstreams, which they reload. */}}
{{- define "pathcast.checksum" -}}
{{- $lasting := omit (fromYaml (include "pathcast.settings" .)) "path" "upstream" -}}
{{- printf "%s %s" (toJson $lasting) .Values.broker.url | sha256sum -}}
{{- end -}}
