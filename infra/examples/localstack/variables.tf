variable "endpoint" {
  description = "Endpoint of LocalStack."
  type        = string
  default     = "http://127.0.0.1:4566"
}

variable "region" {
  type    = string
  default = "eu-central-1"
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
  default = [{ memory_mb = 2048, arch = "x86_64", clones = 2 }]
}

variable "packages" {
  description = "Path of the function's zip by architecture. Functions run as processes, so it has to be this machine's."
  type        = map(string)
}

variable "table_bucket" {
  description = "Name of the bucket that is made for tables."
  type        = string
  default     = "lake"
}
