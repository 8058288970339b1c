variable "region" {
  description = "Region of the tables' bucket: functions elsewhere would pay for each byte."
  type        = string
}

variable "name" {
  type    = string
  default = "gust"
}

variable "functions" {
  description = "As the module's variable."
  type = list(object({
    memory_mb            = number
    arch                 = string
    clones               = optional(number)
    reserved_concurrency = optional(number)
    temp_mb              = optional(number)
    timeout_seconds      = optional(number)
  }))
  default = [{ memory_mb = 2048, arch = "arm64", clones = 2 }]
}

variable "packages" {
  description = "Path of the function's zip by architecture."
  type        = map(string)
}

variable "table_bucket" {
  description = "Bucket that holds the tables. Gust only reads it."
  type        = string
}

variable "table_prefix" {
  description = "Prefix under which they lie in the bucket."
  type        = string
  default     = ""
}

variable "alarm_topic_arns" {
  description = "SNS topics that hear of errors and throttles."
  type        = list(string)
  default     = []
}
