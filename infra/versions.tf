# There is no provider block. Run as root module, the provider is configured by the environment (AWS_REGION, AWS_PROFILE, …). A
# stack that uses this as a module brings its own.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}
