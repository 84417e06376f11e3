{{/* How many sessions there are, for whoever scales by them. */}}

{{/*
In PromQL, the sessions of all pods that do not drain. deploy/prometheus/adapter-rule.yaml has the same for each pod; tests/chart compares.
The name of a pod is its Deployment's and two words more, so that another release whose name begins alike is not counted.
*/}}
{{- define "pathcast.sessionsQuery" -}}
{{- $pods := printf `namespace="%s",pod=~"%s-[a-z0-9]+-[a-z0-9]+"` .Release.Namespace (include "pathcast.fullname" .) -}}
{{- printf "sum(sum by (pod) (pathcast_sessions{%s}) unless on (pod) (pathcast_draining{%s} == 1))" $pods $pods -}}
{{- end -}}

{{- define "pathcast.scales" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}yes{{ end -}}
{{- end -}}
