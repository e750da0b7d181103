SELECT TOP 255000 p.objid, p.ra, p.dec, s.z AS redshift, p.u, p.g, p.r, p.i, p.z
FROM PhotoObj AS p
JOIN SpecObj AS s ON s.bestobjid = p.objid
WHERE p.u BETWEEN 0 AND 30
    AND p.g BETWEEN 0 AND 30
    AND p.r BETWEEN 0 AND 30
    AND p.i BETWEEN 0 AND 30
    AND p.z BETWEEN 0 AND 30
    AND s.class = 'STAR'
    AND s.class <> 'UNKNOWN'
    AND s.class <> 'SKY'
    AND s.class <> 'STAR_LATE'
