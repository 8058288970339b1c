# The root module checks these, where users set them.

variable "name" {
  description = "Name of the function, its role and its alarms."
  type        = string
}

variable "account" {
  description = "Account, partition and region: ARNs are spelled out, so that a plan shows whole policies."
  type        = object({ id = string, partition = string, region = string })
}

variable "arch" {
  description = "arm64 or x86_64."
  type        = string
}

variable "memory_mb" {
  type = number
}

variable "reserved_concurrency" {
  description = "-1 reserves nothing."
  type        = number
}

variable "temp_mb" {
  description = "Size of /tmp."
  type        = number
}

variable "timeout_seconds" {
  type = number
}

variable "package" {
  description = "Path of the zip with `bootstrap`."
  type        = string
}

variable "tables" {
  description = "Buckets and prefixes that it may read; a prefix is empty or ends with a slash."
  type        = list(object({ bucket = string, prefix = string }))
}

variable "table_buckets" {
  description = "ARNs of buckets of S3 Tables that it may read."
  type        = list(string)
  default     = []
}

variable "exchange" {
  description = "Buckets and prefix of its results; the prefix ends with a slash."
  type        = object({ buckets = list(string), prefix = string })
}

variable "vpc" {
  type    = object({ subnet_ids = list(string), security_group_ids = list(string) })
  default = null
}

variable "log_retention_days" {
  type = number
}

variable "alarms" {
  type = bool
}

variable "alarm_topic_arns" {
  type = list(string)
}

variable "tags" {
  type = map(string)
}
