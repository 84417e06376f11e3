{{/* How long a pod takes to leave. */}}

{{/* A duration as the gateway has it, in milliseconds; "off" is none. */}}
{{- define "pathcast.milliseconds" -}}
{{- $factors := dict "off" 0 "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- mul (regexFind "^[0-9]+" . | atoi) (get $factors (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{/* Some of the phases together, `{root, phases}`, in whole seconds. Those that `config` leaves out last as long as the gateway's defaults. */}}
{{- define "pathcast.drainSeconds" -}}
{{- $defaults := dict "settle" "5s" "window" "10s" "timeout" "10s" -}}
{{- $drain := .root.Values.config.drain | default dict -}}
{{- $sum := 0 -}}
{{- range .phases -}}
{{- $value := get $drain . | default (get $defaults .) -}}
{{- $sum = add $sum (include "pathcast.milliseconds" $value) -}}
{{- end -}}
{{- div (add $sum 999) 1000 -}}
{{- end -}}

{{/* settle, window and flush; 15 s more for what comes after, and for a node that is busy. */}}
{{- define "pathcast.leavingSeconds" -}}
{{- add 15 (include "pathcast.drainSeconds" (dict "root" . "phases" (list "settle" "window" "timeout"))) -}}
{{- end -}}

{{- define "pathcast.graceSeconds" -}}
{{- $needed := include "pathcast.leavingSeconds" . | int64 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{ $needed }}
{{- else if lt (int64 $given) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short, pods would be killed while they drain: config.drain adds up to %d with a reserve of 15; leave it empty, or give at least that" (int64 $given) $needed) -}}
{{- else -}}
{{ int64 $given }}
{{- end -}}
{{- end -}}

{{- define "pathcast.minReadySeconds" -}}
{{- if kindIs "invalid" .Values.minReadySeconds -}}
{{ include "pathcast.drainSeconds" (dict "root" . "phases" (list "settle" "window")) }}
{{- else -}}
{{ int64 .Values.minReadySeconds }}
{{- end -}}
{{- end -}}
