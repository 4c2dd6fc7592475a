//! Reading a template.

use anyhow::{Result, bail};

use super::functions::NAMES;
use super::value::Value;

/// A part of a template.
#[derive(Debug)]
pub(crate) enum Node {
    Text(String),
    Print(Pipe),
    Set {
        name: String,
        pipe: Pipe,
        new: bool,
    },
    If {
        pipe: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        pipe: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        variables: Vec<String>,
        pipe: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands, each of which gets what the one before made.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) commands: Vec<Vec<Operand>>,
}

#[derive(Debug)]
pub(crate) enum Operand {
    Literal(Value),
    /// Fields of the dot; none: the dot.
    Field(Vec<String>),
    /// A variable and fields of it; no name: the whole data.
    Variable(String, Vec<String>),
    Function(String),
    Pipe(Pipe, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$`, `$x.A`
    Variable(String, Vec<String>),
    Literal(Value),
    Assign {
        new: bool,
    },
    Comma,
    Bar,
    Open,
    /// A closing parenthesis and what is taken from the result.
    Close(Vec<String>),
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Reads a whole template.
pub(crate) fn template(text: &str) -> Result<Vec<Node>> {
    let pieces = pieces(text)?;
    let mut reader = Reader {
        pieces: pieces.into_iter().peekable(),
    };
    let (nodes, end) = reader.nodes()?;
    match end {
        None => Ok(nodes),
        Some(end) => bail!("unexpected {{{{{}}}}}", end.word),
    }
}

/// Texts and actions in turn; white space is trimmed where an action says so.
fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let (before, action) = (&rest[..at], &rest[at + 2..]);
        let trims_before =
            action.starts_with('-') && action[1..].starts_with(|c: char| c.is_whitespace());
        let action = if trims_before { &action[1..] } else { action };
        pieces.push(Piece::Text(trimmed(before, trim, trims_before).to_owned()));
        let mut tokens = Tokens { rest: action };
        let content = tokens.all()?;
        trim = tokens.rest.starts_with('-');
        rest = &tokens.rest[if trim { 3 } else { 2 }..];
        if let Some(content) = content {
            pieces.push(Piece::Action(content));
        }
    }
    pieces.push(Piece::Text(trimmed(rest, trim, false).to_owned()));
    Ok(pieces)
}

fn trimmed(text: &str, start: bool, end: bool) -> &str {
    let text = if start { text.trim_start() } else { text };
    if end { text.trim_end() } else { text }
}

struct Tokens<'t> {
    rest: &'t str,
}

impl Tokens<'_> {
    /// All up to the end of the action, which stays; `None` for a comment.
    fn all(&mut self) -> Result<Option<Vec<Token>>> {
        self.rest = self.rest.trim_start();
        if let Some(comment) = self.rest.strip_prefix("/*") {
            let Some(end) = comment.find("*/") else {
                bail!("unclosed comment");
            };
            self.rest = comment[end + 2..].trim_start();
            if !self.rest.starts_with("}}") && !self.rest.starts_with("-}}") {
                bail!("comment ends before closing delimiter");
            }
            return Ok(None);
        }
        let mut tokens = Vec::new();
        loop {
            let trimmed = self.rest.trim_start();
            let spaced = trimmed.len() < self.rest.len();
            self.rest = trimmed;
            if trimmed.starts_with("}}") || (spaced && trimmed.starts_with("-}}")) {
                return Ok(Some(tokens));
            }
            tokens.push(self.next()?);
        }
    }

    fn next(&mut self) -> Result<Token> {
        for (text, token) in [
            (":=", Token::Assign { new: true }),
            ("=", Token::Assign { new: false }),
            (",", Token::Comma),
            ("|", Token::Bar),
            ("(", Token::Open),
        ] {
            if let Some(rest) = self.rest.strip_prefix(text) {
                self.rest = rest;
                return Ok(token);
            }
        }
        let Some(first) = self.rest.chars().next() else {
            bail!("unclosed action");
        };
        match first {
            ')' => {
                self.rest = &self.rest[1..];
                Ok(Token::Close(self.fields()))
            }
            '"' => self.quoted(),
            '`' => match self.rest[1..].split_once('`') {
                Some((text, rest)) => {
                    self.rest = rest;
                    Ok(Token::Literal(Value::Text(text.to_owned())))
                }
                None => bail!("unterminated raw quoted string"),
            },
            '$' => {
                self.rest = &self.rest[1..];
                let name = self.word().to_owned();
                Ok(Token::Variable(name, self.fields()))
            }
            '.' => {
                let fields = self.fields();
                if fields.is_empty() {
                    self.rest = &self.rest[1..];
                }
                Ok(Token::Field(fields))
            }
            '0'..='9' | '-' | '+' => self.number(),
            c if c.is_alphabetic() || c == '_' => {
                let word = self.word();
                Ok(match word {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Nil),
                    word => Token::Word(word.to_owned()),
                })
            }
            other => bail!("unexpected {other:?} in command"),
        }
    }

    fn word(&mut self) -> &str {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// `.A.B` as far as it goes.
    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(rest) = self.rest.strip_prefix('.') {
            if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                break;
            }
            self.rest = rest;
            fields.push(self.word().to_owned());
        }
        fields
    }

    fn number(&mut self) -> Result<Token> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | '_')))
            .unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let plain = text.replace('_', "");
        let value = match (plain.parse(), plain.parse()) {
            (Ok(number), _) => Value::Int(number),
            (_, Ok(number)) => Value::Float(number),
            _ => bail!("bad number syntax: {text:?}"),
        };
        Ok(Token::Literal(value))
    }

    fn quoted(&mut self) -> Result<Token> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Token::Literal(Value::Text(text)));
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('"' | '\\' | '\'')) => text.push(c),
                    _ => bail!("unknown escape in a quoted string"),
                },
                c => text.push(c),
            }
        }
        bail!("unterminated quoted string")
    }
}

/// What ended a list of nodes: `end` or `else`, and the rest of the action.
struct End {
    word: String,
    rest: Vec<Token>,
}

struct Reader {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
}

impl Reader {
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<End>)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            match tokens.split_first() {
                None => bail!("missing value for command"),
                Some((Token::Word(word), rest)) => match word.as_str() {
                    "end" | "else" => {
                        let (word, rest) = (word.clone(), rest.to_vec());
                        return Ok((nodes, Some(End { word, rest })));
                    }
                    "if" | "with" | "range" => nodes.push(self.block(word, rest)?),
                    "define" | "template" | "block" | "break" | "continue" => {
                        bail!("unsupported action {word:?}")
                    }
                    _ => nodes.push(Node::Print(pipe(&tokens)?)),
                },
                Some((Token::Variable(name, path), [Token::Assign { new }, rest @ ..]))
                    if path.is_empty() =>
                {
                    nodes.push(Node::Set {
                        name: name.clone(),
                        pipe: pipe(rest)?,
                        new: *new,
                    });
                }
                Some(_) => nodes.push(Node::Print(pipe(&tokens)?)),
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self, word: &str, tokens: &[Token]) -> Result<Node> {
        let (variables, tokens) = declared(tokens);
        if word != "range" && !variables.is_empty() {
            bail!("unsupported declaration in {word}");
        }
        let pipe = pipe(tokens)?;
        let (body, end) = self.nodes()?;
        let otherwise = match end {
            None => bail!("unexpected EOF"),
            Some(end) if end.word == "end" => Vec::new(),
            Some(end) => match end.rest.split_first() {
                None => {
                    let (nodes, end) = self.nodes()?;
                    if end.is_none_or(|end| end.word != "end") {
                        bail!("expected end");
                    }
                    nodes
                }
                // `else if` is an `if` of its own that ends with the same `end`.
                Some((Token::Word(next), rest)) if next == "if" || next == "with" => {
                    vec![self.block(next, rest)?]
                }
                Some(_) => bail!("unexpected token in else"),
            },
        };
        Ok(match word {
            "if" => Node::If {
                pipe,
                then: body,
                otherwise,
            },
            "with" => Node::With {
                pipe,
                then: body,
                otherwise,
            },
            _ => Node::Range {
                variables,
                pipe,
                body,
                otherwise,
            },
        })
    }
}

/// `$x :=` or `$i, $x :=` at the beginning of a `range`.
fn declared(tokens: &[Token]) -> (Vec<String>, &[Token]) {
    match tokens {
        [
            Token::Variable(one, _),
            Token::Assign { new: true },
            rest @ ..,
        ] => (vec![one.clone()], rest),
        [
            Token::Variable(one, _),
            Token::Comma,
            Token::Variable(two, _),
            Token::Assign { new: true },
            rest @ ..,
        ] => (vec![one.clone(), two.clone()], rest),
        rest => (Vec::new(), rest),
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe> {
    let mut tokens = tokens.iter();
    let (pipe, closed) = commands(&mut tokens)?;
    if closed.is_some() {
        bail!("unexpected right paren");
    }
    Ok(pipe)
}

/// Commands up to the end or a closing parenthesis.
fn commands(tokens: &mut std::slice::Iter<'_, Token>) -> Result<(Pipe, Option<Vec<String>>)> {
    let mut commands = vec![Vec::new()];
    let mut closed = None;
    while let Some(token) = tokens.next() {
        let operand = match token {
            Token::Bar => {
                commands.push(Vec::new());
                continue;
            }
            Token::Close(path) => {
                closed = Some(path.clone());
                break;
            }
            Token::Open => match self::commands(tokens)? {
                (pipe, Some(path)) => Operand::Pipe(pipe, path),
                (_, None) => bail!("unclosed left paren"),
            },
            Token::Word(name) if NAMES.contains(&name.as_str()) => Operand::Function(name.clone()),
            Token::Word(name) => bail!("function {name:?} not defined"),
            Token::Field(path) => Operand::Field(path.clone()),
            Token::Variable(name, path) => Operand::Variable(name.clone(), path.clone()),
            Token::Literal(value) => Operand::Literal(value.clone()),
            Token::Assign { .. } | Token::Comma => bail!("unexpected token in command"),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        bail!("missing value for command");
    }
    Ok((Pipe { commands }, closed))
}
