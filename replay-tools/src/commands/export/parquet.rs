//! Events as a Parquet file: one row each, in row groups that are written as soon as they are full.

use super::Sink;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::Value;
use std::io::{self, Write};
use std::sync::Arc;

/// A row group ends when it has so many rows, or so many bytes of text.
const GROUP_ROWS: usize = 100_000;
const GROUP_BYTES: usize = 16 << 20;

const NUMBERS: [&str; 4] = ["index", "term", "n", "at_ms"];
const TEXTS: [&str; 2] = ["event", "fields"];
/// Of the cause; none where an event has none.
const CAUSES: [&str; 4] = ["call", "principal", "peer", "request_id"];

/// A file under way.
pub(super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Group,
}

/// Rows that wait for their row group, by column.
#[derive(Default)]
struct Group {
    numbers: [Vec<i64>; 4],
    takes_effect: Vec<bool>,
    texts: [Vec<ByteArray>; 2],
    /// Values that are there, and for each row whether it has one.
    causes: [(Vec<ByteArray>, Vec<i16>); 4],
    bytes: usize,
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(writer: W) -> io::Result<Parquet<W>> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let schema = schema().map_err(to_io)?;
        let writer = SerializedFileWriter::new(writer, Arc::new(schema), Arc::new(properties)).map_err(to_io)?;
        Ok(Parquet { writer, group: Group::default() })
    }
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn event(&mut self, event: &Value) -> io::Result<()> {
        self.group.push(event);
        if self.group.takes_effect.len() < GROUP_ROWS && self.group.bytes < GROUP_BYTES {
            return Ok(());
        }
        std::mem::take(&mut self.group).write(&mut self.writer).map_err(to_io)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.group.takes_effect.is_empty() {
            std::mem::take(&mut self.group).write(&mut self.writer).map_err(to_io)?;
        }
        self.writer.into_inner().map_err(to_io)?.flush()
    }
}

fn to_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}

fn schema() -> Result<Type, ParquetError> {
    let column = |name: &str, physical: Physical, logical: Option<LogicalType>, repetition: Repetition| {
        let column = Type::primitive_type_builder(name, physical);
        column.with_logical_type(logical).with_repetition(repetition).build().map(Arc::new)
    };
    let time = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let mut columns = Vec::new();
    for name in NUMBERS {
        let logical = (name == "at_ms").then(|| time.clone());
        columns.push(column(name, Physical::INT64, logical, Repetition::REQUIRED)?);
    }
    columns.push(column("takes_effect", Physical::BOOLEAN, None, Repetition::REQUIRED)?);
    for name in TEXTS {
        let logical = if name == "fields" { LogicalType::Json } else { LogicalType::String };
        columns.push(column(name, Physical::BYTE_ARRAY, Some(logical), Repetition::REQUIRED)?);
    }
    for name in CAUSES {
        columns.push(column(name, Physical::BYTE_ARRAY, Some(LogicalType::String), Repetition::OPTIONAL)?);
    }
    Type::group_type_builder("event").with_fields(columns).build()
}

impl Group {
    fn push(&mut self, event: &Value) {
        for (column, name) in self.numbers.iter_mut().zip(NUMBERS) {
            // Terms and indexes are far below the range that Parquet's integers lack.
            column.push(event[name].as_u64().and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX));
        }
        self.takes_effect.push(event["takes_effect"].as_bool().unwrap_or(true));
        for (column, name) in self.texts.iter_mut().zip(TEXTS) {
            let text = event[name].as_str().map_or_else(|| event[name].to_string(), str::to_owned);
            self.bytes += text.len();
            column.push(ByteArray::from(text.into_bytes()));
        }
        for ((values, levels), name) in self.causes.iter_mut().zip(CAUSES) {
            let text = event["cause"][name].as_str();
            levels.push(i16::from(text.is_some()));
            self.bytes += text.map_or(0, str::len);
            values.extend(text.map(|text| ByteArray::from(text.as_bytes().to_vec())));
        }
    }

    fn write<W: Write + Send>(self, writer: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let mut group = writer.next_row_group()?;
        for column in &self.numbers {
            write::<Int64Type, W>(&mut group, column, None)?;
        }
        write::<BoolType, W>(&mut group, &self.takes_effect, None)?;
        for column in &self.texts {
            write::<ByteArrayType, W>(&mut group, column, None)?;
        }
        for (values, levels) in &self.causes {
            write::<ByteArrayType, W>(&mut group, values, Some(levels))?;
        }
        group.close()?;
        Ok(())
    }
}

fn write<T: parquet::data_type::DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("the schema has fewer columns".into()))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}
