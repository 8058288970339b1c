# Gust over the tables of one bucket that exists already.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = "lake" }
  }
}

module "gust" {
  source = "../.."

  name      = var.name
  functions = var.functions
  packages  = var.packages
  tables    = [{ bucket = var.table_bucket, prefix = var.table_prefix }]

  alarm_topic_arns = var.alarm_topic_arns
}
