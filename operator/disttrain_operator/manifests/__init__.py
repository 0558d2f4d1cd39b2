"""What is written to Kubernetes. Pure: values in, plain dicts out; the only dicts that know the API's field names."""
