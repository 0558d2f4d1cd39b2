{{/* Names, labels and the few values that more than one template needs. */}}

{{- define "disttrain.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that every suffix of ours still makes a valid name. */}}
{{- define "disttrain.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "disttrain.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "disttrain.selectorLabels" -}}
app.kubernetes.io/name: {{ include "disttrain.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "disttrain.operatorSelector" -}}
{{ include "disttrain.selectorLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "disttrain.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "disttrain.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "disttrain.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "disttrain.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "disttrain.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* ClusterRoles have no namespace: two releases of one name in two namespaces must not share them. */}}
{{- define "disttrain.clusterRoleName" -}}
{{ .Release.Namespace }}-{{ include "disttrain.fullname" . }}
{{- end }}

{{- define "disttrain.streamService" -}}
{{ include "disttrain.fullname" . }}-stream
{{- end }}

{{- define "disttrain.metricsService" -}}
{{ include "disttrain.fullname" . }}-metrics
{{- end }}

{{- define "disttrain.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "disttrain.fullname" .)) }}
{{- end }}

{{- define "disttrain.leaseName" -}}
{{- .Values.leaderElection.leaseName | default (include "disttrain.fullname" .) }}
{{- end }}

{{- define "disttrain.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "disttrain.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/*
The stream's certificates, base64 as in a Secret: those of the Secret that is there, else new ones. They are made once a
rendering and remembered in .Values, because the Secret and the Deployment's checksum must speak of the same ones.
*/}}
{{- define "disttrain.tls" -}}
{{- if not (hasKey .Values "_tls") }}
{{- $there := (lookup "v1" "Secret" .Release.Namespace (include "disttrain.tlsSecret" .)) | default dict }}
{{- $data := get $there "data" | default dict }}
{{- if and (hasKey $data "tls.crt") (hasKey $data "tls.key") (hasKey $data "ca.crt") }}
{{- $_ := set .Values "_tls" (pick $data "tls.crt" "tls.key" "ca.crt") }}
{{- else }}
{{- $service := include "disttrain.streamService" . }}
{{- $in := printf "%s.%s" $service .Release.Namespace }}
{{- $names := list $service $in (printf "%s.svc" $in) (printf "%s.svc.%s" $in .Values.clusterDomain) }}
{{- $days := int .Values.tls.validityDays }}
{{- $ca := genCA (printf "%s-ca" (include "disttrain.fullname" .)) $days }}
{{- $pair := genSignedCert $service nil $names $days $ca }}
{{- $_ := set .Values "_tls" (dict "tls.crt" (b64enc $pair.Cert) "tls.key" (b64enc $pair.Key) "ca.crt" (b64enc $ca.Cert)) }}
{{- end }}
{{- end }}
{{- toYaml .Values._tls }}
{{- end }}

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
