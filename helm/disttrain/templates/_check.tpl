{{/* What a JSON schema can refuse but not explain. */}}
{{- define "disttrain.check" -}}
{{- range .Values.extraEnv }}
{{- if hasPrefix "DISTTRAIN_" .name }}
{{- fail (printf "extraEnv: %s belongs to the chart; set the value that it is made from (see README.md)" .name) }}
{{- end }}
{{- end }}
{{- $ours := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "app.kubernetes.io/component" "helm.sh/chart" }}
{{- range $value, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "metrics.podMonitor.labels" .Values.metrics.podMonitor.labels "metrics.serviceMonitor.labels" .Values.metrics.serviceMonitor.labels "metrics.prometheusRule.labels" .Values.metrics.prometheusRule.labels }}
{{- range $key, $_ := $labels }}
{{- if has $key $ours }}
{{- fail (printf "%s: %s is set by the chart; choose another label" $value $key) }}
{{- end }}
{{- if and (ne $value "commonLabels") (hasKey $.Values.commonLabels $key) }}
{{- fail (printf "%s: %s is in commonLabels already; set it in one place" $value $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
