{{/* Values that cannot work are refused before anything is installed, each with what to do. values.schema.json refuses what is misspelt. */}}

{{- define "pathcast.refuse" -}}
{{- $values := .Values -}}
{{- $config := .Values.config -}}
{{- $scaling := .Values.autoscaling -}}

{{- $name := include "pathcast.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%s cannot be the name of a Service, which begins with a letter and has small letters, digits and dashes: set fullnameOverride" $name) -}}
{{- end -}}

{{- if and $values.broker.url $values.broker.secret.name -}}
{{- fail "broker.url and broker.secret both say where Redis is: give one of them" -}}
{{- end -}}
{{- if not (include "pathcast.brokerSecret" .) -}}
{{- if include "pathcast.scales" . -}}
{{- fail "autoscaling needs Redis: on the memory broker every pod is a gateway by itself, and its clients would miss what is published at the others; set broker.url or broker.secret" -}}
{{- end -}}
{{- if gt (int $values.replicaCount) 1 -}}
{{- fail (printf "replicaCount: %d pods need Redis: on the memory broker every pod is a gateway by itself, and its clients would miss what is published at the others; set broker.url or broker.secret" (int $values.replicaCount)) -}}
{{- end -}}
{{- end -}}

{{- if hasKey ($config.broker | default dict) "url" -}}
{{- fail "config.broker.url would put Redis' password into a ConfigMap: set broker.url or broker.secret" -}}
{{- end -}}
{{- if hasKey $config "api" -}}
{{- fail "config.api is the chart's: keys are api.keys, and the port of the API's Service is apiService.port" -}}
{{- end -}}
{{- if hasKey ($config.clients | default dict) "listen" -}}
{{- fail "config.clients.listen is the chart's: the port of the clients' Service is service.port" -}}
{{- end -}}
{{- range ($config.webhook).secret -}}
{{- if hasKey . "key" -}}
{{- fail "config.webhook.secret: key would put the secret into a ConfigMap: mount it by extraVolumes, and name it by key_file" -}}
{{- end -}}
{{- end -}}
{{- range $config.upstream -}}
{{- range .headers -}}
{{- if regexMatch "(?i)^authorization *:" . -}}
{{- fail "config.upstream.headers: Authorization would put the token into a ConfigMap: mount it by extraVolumes, and name it by token_file" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.test.enabled ($config.clients).tls -}}
{{- fail "helm test speaks no TLS: with config.clients.tls set test.enabled to false" -}}
{{- end -}}

{{- if and ($config.clients).tls (eq (toString $values.service.appProtocol) "kubernetes.io/ws") -}}
{{- fail "config.clients.tls: proxies would be told that there is no TLS: set service.appProtocol to kubernetes.io/wss, or to nothing" -}}
{{- end -}}
{{- if and $values.service.externalTrafficPolicy (eq $values.service.type "ClusterIP") -}}
{{- fail "service.externalTrafficPolicy is for what comes from outside: set service.type to NodePort or LoadBalancer" -}}
{{- end -}}

{{- $names := list "metrics" "helm-test" -}}
{{- range $values.api.keys -}}
{{- if has .name $names -}}
{{- fail (printf "api.keys: the name %q is taken: each key has its own, and metrics and helm-test are the chart's" .name) -}}
{{- end -}}
{{- if and .sha256 .secret -}}
{{- fail (printf "api.keys: %q has both sha256 and secret: give one of them, or neither" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}

{{- if and $scaling.hpa.enabled $scaling.keda.enabled -}}
{{- fail "autoscaling.hpa and autoscaling.keda would pull at the same pods: KEDA makes an HPA of its own; enable one of them" -}}
{{- end -}}
{{- if and $scaling.keda.enabled (not $scaling.keda.serverAddress) -}}
{{- fail "autoscaling.keda.serverAddress: say where Prometheus is, as in http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if include "pathcast.scales" . -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: %d is more than maxReplicas, %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- range list "sessions_soft_max" "sessions_max" -}}
{{- $most := get ($config.limits | default dict) . -}}
{{- if and $most (ge (int64 $scaling.sessionsPerPod) (int64 $most)) -}}
{{- fail (printf "autoscaling.sessionsPerPod: with %d a pod would be full before one is added: stay below config.limits.%s, %d" (int64 $scaling.sessionsPerPod) . (int64 $most)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and ($config.limits).sessions_soft_max (not (include "pathcast.scales" .)) (eq (int $values.replicaCount) 1) -}}
{{- fail "config.limits.sessions_soft_max: one pod alone has nobody to leave clients to, and above it nobody could publish through the Service either: leave it out, sessions_max is enough" -}}
{{- end -}}
{{- if and $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor and metrics.serviceMonitor would count every session twice: enable one of them" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host, as in ws.example.com" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name at least one Gateway" -}}
{{- end -}}
{{- if and (include "pathcast.deletionCost" .) (not $values.serviceAccount.create) (not $values.serviceAccount.name) -}}
{{- fail "config.kubernetes.deletion_cost needs an account that may write to pods, and that should not be the namespace's default one: set serviceAccount.create or serviceAccount.name" -}}
{{- end -}}
{{- end -}}
