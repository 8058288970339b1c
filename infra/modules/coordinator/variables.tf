# The root module checks these, where users set them.

variable "name" {
  description = "Name of the role and of its policies."
  type        = string
}

variable "account" {
  description = "Account, partition and region: ARNs are spelled out, so that a plan shows whole policies."
  type        = object({ id = string, partition = string, region = string })
}

variable "functions" {
  description = "Names of the functions that it may invoke."
  type        = list(string)
}

variable "tables" {
  description = "Buckets and prefixes that it may read; a prefix is empty or ends with a slash."
  type        = list(object({ bucket = string, prefix = string }))
}

variable "glue_databases" {
  description = "Databases of the account's Glue catalog that it may read."
  type        = list(string)
  default     = []
}

variable "table_buckets" {
  description = "ARNs of buckets of S3 Tables that it may read."
  type        = list(string)
  default     = []
}

variable "exchange" {
  description = "Buckets and prefix of the functions' results; the prefix ends with a slash."
  type        = object({ buckets = list(string), prefix = string })
}

variable "principals" {
  description = "Principals that may assume the role: ARNs and services. null is the account itself."
  type        = list(string)
  default     = null
}

variable "tags" {
  type = map(string)
}
