variable "name" {
  description = "Names everything: functions are NAME-ARCH-MEMORY-CLONE. Two stacks in one account need two names."
  type        = string
  default     = "gust"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,29}$", var.name)) && !endswith(var.name, "-")
    error_message = "name must be 2 to 30 lowercase letters, digits and hyphens, starting with a letter and not ending with a hyphen: bucket names are made of it."
  }
}

variable "functions" {
  description = <<-TEXT
    Functions to create. 1,769 MB of memory come with one whole core. `clones` makes several equal functions: Lambda adds 1,000
    environments every 10 seconds to each function, so clones start up faster together. `reserved_concurrency` -1 shares
    the account's limit with everything else; a number sets that many aside and is also the function's limit. `temp_mb`
    is what a fragment may spill; 512 MB are free.
  TEXT
  type = list(object({
    memory_mb            = number
    arch                 = string
    clones               = optional(number, 1)
    reserved_concurrency = optional(number, -1)
    temp_mb              = optional(number, 512)
    timeout_seconds      = optional(number, 300)
  }))
  default  = [{ memory_mb = 2048, arch = "arm64" }]
  nullable = false

  validation {
    condition     = length(var.functions) > 0
    error_message = "functions is empty: name at least one, e.g. [{ memory_mb = 2048, arch = \"arm64\" }]."
  }
  validation {
    condition     = alltrue([for f in var.functions : contains(["arm64", "x86_64"], f.arch)])
    error_message = "arch must be \"arm64\" or \"x86_64\"."
  }
  validation {
    condition     = alltrue([for f in var.functions : f.memory_mb >= 128 && f.memory_mb <= 10240 && floor(f.memory_mb) == f.memory_mb])
    error_message = "memory_mb must be a whole number from 128 to 10240: that is what Lambda offers."
  }
  validation {
    condition     = alltrue([for f in var.functions : f.temp_mb >= 512 && f.temp_mb <= 10240 && floor(f.temp_mb) == f.temp_mb])
    error_message = "temp_mb must be a whole number from 512 to 10240: that is what Lambda offers."
  }
  validation {
    condition     = alltrue([for f in var.functions : f.timeout_seconds >= 1 && f.timeout_seconds <= 900 && floor(f.timeout_seconds) == f.timeout_seconds])
    error_message = "timeout_seconds must be a whole number from 1 to 900: that is what Lambda offers."
  }
  validation {
    condition     = alltrue([for f in var.functions : f.reserved_concurrency >= -1 && floor(f.reserved_concurrency) == f.reserved_concurrency])
    error_message = "reserved_concurrency must be a whole number: -1 reserves nothing, 0 switches the function off."
  }
  validation {
    condition     = alltrue([for f in var.functions : f.clones >= 1 && floor(f.clones) == f.clones]) && sum(concat([0], var.functions[*].clones)) <= 20
    error_message = "clones must be a whole number of at least 1, and all functions together at most 20: what invokes them is listed one by one in a policy of bounded size."
  }
  validation {
    condition     = length(var.functions) == length(distinct([for f in var.functions : "${f.arch}-${f.memory_mb}"]))
    error_message = "two functions have the same arch and memory_mb: use clones for more of the same."
  }
}

variable "packages" {
  description = "Path of the function's zip by architecture, e.g. { arm64 = \"/path/gust-function-arm64.zip\" }. A relative path starts at the folder that Terraform runs in."
  type        = map(string)

  validation {
    condition     = alltrue([for arch in keys(var.packages) : contains(["arm64", "x86_64"], arch)])
    error_message = "the keys of packages must be \"arm64\" or \"x86_64\"."
  }
  validation {
    condition     = alltrue([for f in var.functions : contains(keys(var.packages), f.arch)])
    error_message = "packages has no zip for ${join(", ", setsubtract(var.functions[*].arch, keys(var.packages)))}: add one, or take the functions of that arch out."
  }
  validation {
    condition     = alltrue([for path in values(var.packages) : fileexists(path)])
    error_message = "packages: there is no file ${join(", ", [for path in values(var.packages) : path if !fileexists(path)])}: give the path of a built function zip."
  }
}

variable "tables" {
  description = "Data that may be read: buckets, or prefixes in them. An empty prefix is the whole bucket; \"lake\" is the same as \"lake/\" and does not include \"lakehouse/\"."
  type = list(object({
    bucket = string
    prefix = optional(string, "")
  }))
  nullable = false

  validation {
    condition     = length(var.tables) > 0
    error_message = "tables is empty: name at least one bucket, e.g. [{ bucket = \"my-lake\" }], for functions may read nothing else."
  }
  validation {
    condition     = alltrue([for t in var.tables : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", t.bucket))])
    error_message = "tables: a bucket is the bare name of one bucket, without s3:// and without wildcards."
  }
  validation {
    condition     = alltrue([for t in var.tables : !can(regex("[*?$]", t.prefix))])
    error_message = "tables: a prefix is taken literally, so it has no *, ? or $."
  }
}

variable "glue_databases" {
  description = "Databases of the account's Glue catalog that may be read by name. Their files are still named in tables."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for d in var.glue_databases : can(regex("^[^/:*?$]{1,255}$", d))])
    error_message = "glue_databases: a database is one name, without wildcards."
  }
}

variable "table_buckets" {
  description = "Buckets of S3 Tables that may be read, by ARN."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.table_buckets : can(regex("^arn:[^:]+:s3tables:[^:*?$]+:[0-9]{12}:bucket/[^*?$]+$", arn))])
    error_message = "table_buckets: an ARN is arn:aws:s3tables:REGION:ACCOUNT:bucket/NAME."
  }
}

variable "exchange_bucket_name" {
  description = "Name of the bucket that functions leave results in. It is created here and holds nothing else. Default: name, account and region."
  type        = string
  default     = null

  validation {
    condition     = var.exchange_bucket_name == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.exchange_bucket_name))
    error_message = "exchange_bucket_name must be 3 to 63 lowercase letters, digits, dots and hyphens."
  }
  validation {
    condition     = !contains(var.tables[*].bucket, coalesce(var.exchange_bucket_name, "-"))
    error_message = "exchange_bucket_name is also a table's bucket: the exchange deletes what is older than a day, so it needs a bucket of its own."
  }
}

variable "exchange_buckets" {
  description = "Number of such buckets. The second and later ones have a number behind the name. More of them answer more reads a second, for joins and groups of hundreds of functions."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.exchange_buckets >= 1 && var.exchange_buckets <= 16 && floor(var.exchange_buckets) == var.exchange_buckets
    error_message = "exchange_buckets must be a whole number from 1 to 16."
  }
  validation {
    condition     = var.exchange_buckets == 1 || var.exchange_bucket_name == null || length(coalesce(var.exchange_bucket_name, "-")) <= 60
    error_message = "exchange_bucket_name has at most 60 characters where there are several exchange_buckets, which have a number behind it."
  }
  validation {
    condition     = length(setintersection(var.tables[*].bucket, [for n in range(1, 17) : "${coalesce(var.exchange_bucket_name, "-")}-${n}" if n <= var.exchange_buckets])) == 0
    error_message = "one of the exchange_buckets is also a table's bucket: the exchange deletes what is older than a day, so it needs buckets of its own."
  }
}

variable "coordinator_principals" {
  description = "Principals that may assume the coordinator's role: ARNs of roles or users, or services such as \"ec2.amazonaws.com\". Default: the account itself, so its IAM policies decide."
  type        = list(string)
  default     = null

  validation {
    condition = alltrue([
      for p in coalesce(var.coordinator_principals, []) : can(regex("^arn:[^*]+$", p)) || can(regex("^[a-z0-9.-]+\\.amazonaws\\.com(\\.cn)?$", p))
    ])
    error_message = "coordinator_principals: each is an ARN without wildcards, or a service such as \"ec2.amazonaws.com\"."
  }
  validation {
    condition     = var.coordinator_principals == null || length(coalesce(var.coordinator_principals, [])) > 0
    error_message = "coordinator_principals is empty: leave it out to let the account's IAM policies decide."
  }
}

variable "log_retention_days" {
  description = "Days for which the functions' logs are kept."
  type        = number
  default     = 7

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and some longer ones. \"For ever\" is not offered."
  }
}

variable "alarms" {
  description = "True where each function has an error and a throttle alarm. An alarm costs $0.10 a month; an account's first ten are free."
  type        = bool
  default     = true
}

variable "alarm_topic_arns" {
  description = "SNS topics that hear of alarms. Without one they are only seen in the console."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.alarm_topic_arns : can(regex("^arn:[^:]+:sns:[^:]+:[^:]+:[^:]+$", arn))])
    error_message = "alarm_topic_arns: each is the ARN of an SNS topic, e.g. \"arn:aws:sns:eu-central-1:123456789012:oncall\"."
  }
}

variable "vpc" {
  description = <<-TEXT
    Puts the functions into a VPC. Leave it out unless the tables can only be reached from there: outside a VPC 256 functions
    read 247 GB/s together, inside one 20.7 GB/s (arXiv 2501.07771). Inside, S3 needs a gateway endpoint in the route tables of
    the subnets, and each function takes an address.
  TEXT
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null

  validation {
    condition     = var.vpc == null || try(length(var.vpc.subnet_ids) > 0 && length(var.vpc.security_group_ids) > 0, false)
    error_message = "vpc needs at least one subnet and one security group."
  }
}

variable "endpoint" {
  description = "URL of a service that stands in for AWS, such as LocalStack. It is only written into gust_toml."
  type        = string
  default     = null

  validation {
    condition     = var.endpoint == null || can(regex("^https?://[^/]+$", var.endpoint))
    error_message = "endpoint must be an http:// or https:// URL without a path, e.g. \"http://127.0.0.1:4566\"."
  }
}

variable "tags" {
  description = "Tags for everything that takes tags, beside `gust` (the name) and `component`. Activate `gust` as a cost allocation tag to see this stack in the bill."
  type        = map(string)
  default     = {}
}
