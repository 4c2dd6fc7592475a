//! `--format`: the part of Go's `text/template` that people use on lists of records.
//!
//! Fields, variables, `if`, `range`, `with`, pipelines, trimming of white space, and the functions `json`, `len`, `index`,
//! `print`, `printf`, `println`, `eq`, `ne`, `lt`, `le`, `gt`, `ge`, `and`, `or`, `not`. No definitions of templates within
//! templates.

mod functions;
mod parse;
mod value;

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};

pub(crate) use value::{Field, Value};

use parse::{Node, Operand, Pipe};

/// A template, read.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Reads a template; `json` alone stands for `{{json .}}`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = if text == "json" { "{{json .}}" } else { text };
        Ok(Self {
            nodes: parse::template(text).context("template: :1")?,
        })
    }

    /// What it makes of a value.
    pub(crate) fn execute(&self, data: &Value) -> Result<String> {
        let mut run = Run {
            out: String::new(),
            root: data,
            variables: vec![HashMap::new()],
        };
        run.nodes(&self.nodes, data)?;
        Ok(run.out)
    }
}

struct Run<'d> {
    out: String,
    root: &'d Value,
    variables: Vec<HashMap<String, Value>>,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        for node in nodes {
            self.node(node, dot)?;
        }
        Ok(())
    }

    /// A part with variables of its own.
    fn scope(&mut self, nodes: &[Node], dot: &Value, set: &[(&str, Value)]) -> Result<()> {
        let own = set
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.variables.push(own.collect());
        let result = self.nodes(nodes, dot);
        self.variables.pop();
        result
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<()> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipe) => {
                let value = self.pipe(pipe, dot)?;
                self.out.push_str(&value.to_string());
            }
            Node::Set { name, pipe, new } => {
                let value = self.pipe(pipe, dot)?;
                self.set(name, value, *new)?;
            }
            Node::If {
                pipe,
                then,
                otherwise,
            } => {
                let chosen = if self.pipe(pipe, dot)?.is_true() {
                    then
                } else {
                    otherwise
                };
                self.scope(chosen, dot, &[])?;
            }
            Node::With {
                pipe,
                then,
                otherwise,
            } => {
                let value = self.pipe(pipe, dot)?;
                if value.is_true() {
                    self.scope(then, &value, &[])?;
                } else {
                    self.scope(otherwise, dot, &[])?;
                }
            }
            Node::Range {
                variables,
                pipe,
                body,
                otherwise,
            } => {
                let pairs = self.pipe(pipe, dot)?.pairs()?;
                if pairs.is_empty() {
                    self.scope(otherwise, dot, &[])?;
                }
                for (key, value) in pairs {
                    let set: Vec<(&str, Value)> = match variables.as_slice() {
                        [] => Vec::new(),
                        [one] => vec![(one, value.clone())],
                        [first, second, ..] => vec![(first, key), (second, value.clone())],
                    };
                    self.scope(body, &value, &set)?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, new: bool) -> Result<()> {
        if new {
            if let Some(scope) = self.variables.last_mut() {
                scope.insert(name.to_owned(), value);
            }
            return Ok(());
        }
        for scope in self.variables.iter_mut().rev() {
            if let Some(known) = scope.get_mut(name) {
                *known = value;
                return Ok(());
            }
        }
        bail!("undefined variable \"${name}\"")
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Nil))
    }

    /// A function with its arguments, the last one from the left of the bar; or a value alone.
    fn command(&self, command: &[Operand], dot: &Value, last: Option<Value>) -> Result<Value> {
        if let [Operand::Function(name), arguments @ ..] = command {
            let arguments = arguments.iter().map(|operand| self.operand(operand, dot));
            let mut arguments = arguments.collect::<Result<Vec<_>>>()?;
            arguments.extend(last);
            return functions::call(name, &arguments);
        }
        match (command, last) {
            ([one], None) => self.operand(one, dot),
            _ => bail!("can't give argument to non-function"),
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => dot.at(path),
            Operand::Variable(name, path) if name.is_empty() => self.root.at(path),
            Operand::Variable(name, path) => {
                let known = self
                    .variables
                    .iter()
                    .rev()
                    .find_map(|scope| scope.get(name));
                match known {
                    Some(value) => value.at(path),
                    None => bail!("undefined variable \"${name}\""),
                }
            }
            Operand::Pipe(pipe, path) => self.pipe(pipe, dot)?.at(path),
            Operand::Function(name) => functions::call(name, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, size: i64) -> Value {
        Value::Record(vec![
            Field::new("ID", "id", Value::Text(id.into())),
            Field::new("Size", "size", Value::Int(size)),
            Field::new("InUse", "inUse", Value::Bool(size > 5)),
            Field::new("LastUsedAt", "lastUsedAt", Value::Nil),
            Field::new(
                "Parents",
                "parents",
                Value::List(vec![Value::Text("a<b".into()), Value::Text("c".into())]),
            ),
        ])
    }

    fn list() -> Value {
        Value::List(vec![record("one", 10), record("two", 3)])
    }

    fn of(text: &str, data: &Value) -> String {
        Template::parse(text)
            .and_then(|template| template.execute(data))
            .unwrap_or_else(|err| format!("error: {err:#}"))
    }

    #[test]
    fn json_has_the_names_of_the_wire() {
        let expected =
            r#"{"id":"one","size":10,"inUse":true,"lastUsedAt":null,"parents":["a<b","c"]}"#;
        for text in ["json", "{{json .}}", "{{ . | json }}"] {
            assert_eq!(of(text, &record("one", 10)), expected);
        }
        assert_eq!(of("{{json .Parents}}", &record("x", 1)), r#"["a<b","c"]"#);
        assert_eq!(of("json", &Value::List(Vec::new())), "null");
    }

    #[test]
    fn fields_have_the_names_of_the_program() {
        let data = record("one", 10);
        assert_eq!(of("{{.ID}}: {{.Size}} {{.InUse}}", &data), "one: 10 true");
        assert_eq!(of("{{.Parents}} {{.LastUsedAt}}", &data), "[a<b c] <nil>");
        assert_eq!(
            of("{{.id}}", &data),
            "error: can't evaluate field id in this record"
        );
    }

    #[test]
    fn lists_are_gone_through() {
        assert_eq!(of("{{range .}}{{.ID}} {{end}}", &list()), "one two ");
        assert_eq!(
            of(
                "{{range $i, $it := .}}{{if $i}},{{end}}{{$it.ID}}{{end}}",
                &list()
            ),
            "one,two"
        );
        assert_eq!(
            of("{{range .}}x{{else}}none{{end}}", &Value::List(Vec::new())),
            "none"
        );
        assert_eq!(of("{{len .}} {{(index . 1).ID}}", &list()), "2 two");
    }

    #[test]
    fn parts_depend_on_conditions() {
        let text =
            "{{range .}}{{if .InUse}}{{.ID}}{{else if eq .Size 3}}three{{else}}?{{end}};{{end}}";
        assert_eq!(of(text, &list()), "one;three;");
        assert_eq!(
            of(
                "{{if and .InUse (gt .Size 5)}}a{{end}}{{if not .LastUsedAt}}b{{end}}",
                &record("x", 9)
            ),
            "ab"
        );
        assert_eq!(
            of(
                "{{with .LastUsedAt}}{{.}}{{else}}never{{end}}",
                &record("x", 9)
            ),
            "never"
        );
    }

    #[test]
    fn values_are_formatted() {
        assert_eq!(
            of(
                r#"{{printf "%-5s|%5d|%v|%q|%%" .ID .Size .InUse .ID}}"#,
                &record("ab", 7)
            ),
            "ab   |    7|true|\"ab\"|%"
        );
        assert_eq!(of(r#"{{.ID | printf "<%s>"}}"#, &record("ab", 7)), "<ab>");
        assert_eq!(of(r#"{{println "a" 1}}"#, &Value::Nil), "a 1\n");
    }

    #[test]
    fn variables_keep_values() {
        let text = "{{$last := \"\"}}{{range .}}{{$last = .ID}}{{end}}{{$last}} {{len $}}";
        assert_eq!(of(text, &list()), "two 2");
    }

    #[test]
    fn white_space_can_be_trimmed_and_comments_are_not_shown() {
        assert_eq!(
            of("a  {{- /* nothing */ -}}  b {{\"\\n\" -}} c", &Value::Nil),
            "ab \nc"
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            (
                "{{foo .}}",
                "error: template: :1: function \"foo\" not defined",
            ),
            ("{{.ID", "error: template: :1: unclosed action"),
            ("{{if .ID}}", "error: template: :1: unexpected EOF"),
            ("{{end}}", "error: template: :1: unexpected {{end}}"),
            ("{{$x}}", "error: undefined variable \"$x\""),
        ] {
            assert_eq!(of(text, &record("x", 1)), expected, "{text}");
        }
    }
}
