{{/* What things are called. A name may look like a number or a boolean, so it is quoted where it is written. */}}

{{- define "pathcast.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: what is appended to it, by Kubernetes too, then stays within 63. */}}
{{- define "pathcast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "pathcast.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pathcast.selector" -}}
app.kubernetes.io/name: {{ include "pathcast.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The pods of the gateway, and not that of `helm test`. */}}
{{- define "pathcast.gateways" -}}
{{ include "pathcast.selector" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "pathcast.labels" -}}
{{ include "pathcast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "pathcast.metadata" -}}
name: {{ include "pathcast.fullname" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "pathcast.labels" . | nindent 2 }}
{{- end -}}

{{- define "pathcast.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "pathcast.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "pathcast.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where the URL of Redis is: empty with the memory broker. */}}
{{- define "pathcast.brokerSecret" -}}
{{- if .Values.broker.secret.name -}}
name: {{ .Values.broker.secret.name | quote }}
key: {{ .Values.broker.secret.key | quote }}
{{- else if .Values.broker.url -}}
name: {{ printf "%s-broker" (include "pathcast.fullname" .) | quote }}
key: url
{{- end -}}
{{- end -}}

{{/* The Secret with the keys that the chart makes up. */}}
{{- define "pathcast.madeSecret" -}}
{{ include "pathcast.fullname" . }}-keys
{{- end -}}

{{/* Where the key for /metrics is. */}}
{{- define "pathcast.metricsSecret" -}}
{{- with .Values.metrics.secret -}}
{{- if .name -}}
name: {{ .name | quote }}
key: {{ .key | quote }}
{{- else -}}
name: {{ include "pathcast.madeSecret" $ | quote }}
key: metrics
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pathcast.deletionCost" -}}
{{- if (.Values.config.kubernetes).deletion_cost }}yes{{ end -}}
{{- end -}}
