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
