//! Histories of random tables, and the rows that the specification leaves of them.

use std::collections::BTreeSet;

use super::*;

/// Field of a spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) of_a: bool,
    pub(super) transform: Transform,
}

pub(super) type Tuple = Vec<Option<Scalar>>;

#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) path: String,
    pub(super) rows: Vec<Row>,
    pub(super) sequence_number: i64,
    pub(super) spec: usize,
    pub(super) tuple: Tuple,
}

#[derive(Debug)]
pub(super) struct DeleteFile {
    pub(super) path: String,
    pub(super) sequence_number: i64,
    pub(super) spec: usize,
    pub(super) tuple: Tuple,
    pub(super) content: Deleted,
}

#[derive(Debug)]
pub(super) enum Deleted {
    Vector {
        of: String,
        positions: BTreeSet<usize>,
    },
    Positions {
        of: Option<String>,
        rows: BTreeSet<(String, usize)>,
    },
    /// Values of `b`.
    Keys(BTreeSet<Option<i32>>),
}

/// Table with everything that its history knows.
#[derive(Debug)]
pub(super) struct History {
    pub(super) a: Type,
    /// Ids of `a` and `b`.
    pub(super) ids: [i32; 2],
    pub(super) specs: Vec<Vec<Part>>,
    pub(super) files: Vec<DataFile>,
    pub(super) deletes: Vec<DeleteFile>,
}

fn random_type(rng: &mut StdRng) -> Type {
    let decimal = Type::Decimal { precision: 9, scale: 2 };
    let types = [
        Type::Boolean,
        Type::Int,
        Type::Long,
        Type::Float,
        Type::Double,
        decimal,
        Type::Date,
        Type::Time,
        Type::Timestamp,
        Type::Timestamptz,
        Type::TimestampNs,
        Type::String,
        Type::Uuid,
        Type::Binary,
    ];
    types[rng.random_range(0..types.len())].clone()
}

fn random_transform(ty: &Type, rng: &mut StdRng) -> Transform {
    use Transform::*;
    let all: &[Transform] = match ty {
        Type::Boolean | Type::Float | Type::Double => &[Identity, Void],
        Type::Int | Type::Long | Type::Decimal { .. } | Type::String => &[Identity, Bucket(3), Truncate(3), Void],
        Type::Date => &[Identity, Bucket(3), Year, Month, Day],
        Type::Timestamp | Type::Timestamptz | Type::TimestampNs => &[Identity, Bucket(3), Year, Month, Day, Hour],
        Type::Binary => &[Identity, Bucket(3), Truncate(2)],
        _ => &[Identity, Bucket(3), Void],
    };
    all[rng.random_range(0..all.len())]
}

impl History {
    pub(super) fn random(rng: &mut StdRng) -> History {
        let a = random_type(rng);
        let first = rng.random_range(1..40);
        let ids = if rng.random() { [first, first + rng.random_range(1..9)] } else { [first + 9, first] };
        let part = |rng: &mut StdRng| {
            let of_a = rng.random_ratio(2, 3);
            Part { of_a, transform: random_transform(if of_a { &a } else { &Type::Int }, rng) }
        };
        let specs = (0..rng.random_range(1..4)).map(|_| (0..rng.random_range(0..3)).map(|_| part(rng)).collect());
        let mut history = History { ids, specs: specs.collect(), a: a.clone(), files: Vec::new(), deletes: Vec::new() };
        for sequence_number in 1..=rng.random_range(2..8) {
            if history.files.is_empty() || rng.random_ratio(3, 5) {
                let spec = rng.random_range(0..history.specs.len());
                for _ in 0..rng.random_range(1..4) {
                    history.append(spec, sequence_number, rng);
                }
            } else {
                history.delete(sequence_number, rng);
            }
        }
        history
    }

    fn tuple(&self, spec: usize, row: &Row) -> Tuple {
        let value = |part: &Part| {
            let value = if part.of_a { row.0.clone() } else { row.1.map(Scalar::Int) };
            match part.transform {
                Transform::Void => None,
                transform => value.and_then(|value| judge_transform(transform, self.source(part), &value)),
            }
        };
        self.specs[spec].iter().map(value).collect()
    }

    pub(super) fn source(&self, part: &Part) -> &Type {
        if part.of_a { &self.a } else { &Type::Int }
    }

    fn append(&mut self, spec: usize, sequence_number: i64, rng: &mut StdRng) {
        let row = |rng: &mut StdRng| -> Row {
            (
                rng.random_ratio(7, 8).then(|| random_value(&self.a, rng)),
                rng.random_ratio(7, 8).then(|| rng.random_range(0..6)),
            )
        };
        let first = row(rng);
        let tuple = self.tuple(spec, &first);
        let mut rows = vec![first];
        for _ in 0..30 {
            let next = row(rng);
            if rows.len() < ROWS_PER_FILE_MAX && same_tuple(&self.tuple(spec, &next), &tuple) {
                rows.push(next);
            }
        }
        let path = format!("s3://b/data/{}.parquet", self.files.len());
        self.files.push(DataFile { path, rows, sequence_number, spec, tuple });
    }

    fn delete(&mut self, sequence_number: i64, rng: &mut StdRng) {
        let of = &self.files[rng.random_range(0..self.files.len())];
        let (spec, tuple) = (of.spec, of.tuple.clone());
        let some = |file: &DataFile, rng: &mut StdRng| -> BTreeSet<usize> {
            (0..file.rows.len()).filter(|_| rng.random()).collect()
        };
        let has_vector = |path: &str| {
            self.deletes.iter().any(|delete| matches!(&delete.content, Deleted::Vector { of, .. } if of == path))
        };
        let content = match rng.random_range(0..4) {
            0 if !has_vector(&of.path) => Deleted::Vector { of: of.path.clone(), positions: some(of, rng) },
            1 => {
                let rows = some(of, rng).into_iter().map(|position| (of.path.clone(), position));
                Deleted::Positions { of: Some(of.path.clone()), rows: rows.collect() }
            }
            2 => {
                let of_partition =
                    self.files.iter().filter(|file| file.spec == spec && same_tuple(&file.tuple, &tuple));
                let rows = of_partition.flat_map(|file| {
                    some(file, rng).into_iter().map(|position| (file.path.clone(), position)).collect::<Vec<_>>()
                });
                Deleted::Positions { of: None, rows: rows.collect() }
            }
            _ => Deleted::Keys(
                (0..rng.random_range(1..3)).map(|_| rng.random_ratio(5, 6).then(|| rng.random_range(0..6))).collect(),
            ),
        };
        let path = format!("s3://b/deletes/{}.parquet", self.deletes.len());
        self.deletes.push(DeleteFile { path, sequence_number, spec, tuple, content });
    }

    /// Returns true where the specification says that the row is deleted.
    fn is_deleted(&self, file: &DataFile, position: usize) -> bool {
        let vector = self.deletes.iter().find_map(|delete| match &delete.content {
            Deleted::Vector { of, positions } if *of == file.path => Some(positions),
            _ => None,
        });
        let same_partition = |delete: &DeleteFile| delete.spec == file.spec && same_tuple(&delete.tuple, &file.tuple);
        self.deletes.iter().any(|delete| match &delete.content {
            Deleted::Vector { .. } => false,
            // A vector replaces them.
            Deleted::Positions { .. } if vector.is_some() => false,
            Deleted::Positions { of: Some(_), rows } => {
                delete.sequence_number >= file.sequence_number && rows.contains(&(file.path.clone(), position))
            }
            Deleted::Positions { of: None, rows } => {
                delete.sequence_number >= file.sequence_number
                    && same_partition(delete)
                    && rows.contains(&(file.path.clone(), position))
            }
            Deleted::Keys(keys) => {
                let is_global = self.specs[delete.spec].iter().all(|part| part.transform == Transform::Void);
                delete.sequence_number > file.sequence_number
                    && (is_global || same_partition(delete))
                    && keys.contains(&file.rows[position].1)
            }
        }) || vector.is_some_and(|positions| positions.contains(&position))
    }

    /// Lists the rows, each by its file and position, that match.
    pub(super) fn truth(&self, matches: &dyn Fn(&Row) -> bool) -> BTreeSet<(String, usize)> {
        let rows = self.files.iter().flat_map(|file| (0..file.rows.len()).map(move |position| (file, position)));
        let left = rows.filter(|(file, position)| matches(&file.rows[*position]) && !self.is_deleted(file, *position));
        left.map(|(file, position)| (file.path.clone(), position)).collect()
    }
}

fn same_tuple(a: &Tuple, b: &Tuple) -> bool {
    let same = |(a, b): (&Option<Scalar>, &Option<Scalar>)| match (a, b) {
        (Some(Scalar::Float(a)), Some(Scalar::Float(b))) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        (Some(Scalar::Double(a)), Some(Scalar::Double(b))) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}
